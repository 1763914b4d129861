"""Damaged files of releases: none of them is loaded."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np
import orjson
import pytest

from embed.catalogue import Catalogue
from embed.text_composition import compose_texts
from embed.vector_store import VectorStore, content_key
from helpers.messy.workspace import Row, vetrina
from helpers.service import Service, good, refused, served, until
from index import index_folder
from index.faiss_index import SearchEffort
from index.item_ids import write_item_ids
from index.space import Space
from serve.core.settings import Settings
from serve.release.manifest import read_manifest
from serve.release.repository import current_name, draft, make_current, releases_folder, seal


@dataclass(frozen=True)
class Library:
    """A store of 200 items, ids 0 to 199, and a service over it: its index of images is the folder's good one."""

    store: Path
    service: Service
    release: str


def published(store: Path, change: Callable[[Path], None]) -> str:
    """Another release: the current one after a change, with the checksums of what it is then. Not yet current."""
    current = releases_folder(store) / (current_name(store) or "")
    manifest = read_manifest(current).model_copy(update={"created_at": datetime.now(UTC)})
    with draft(store) as folder:
        shutil.copytree(current, folder, dirs_exist_ok=True)
        (folder / "manifest.json").unlink()
        change(folder)
        seal(store, folder, manifest)
    return manifest.release


def put_good_index(release: Path, artifact: Path) -> None:
    """The index and its rows in the place of a release's image space."""
    index, folder = faiss.read_index(str(artifact)), release / "spaces/image"
    rows = np.stack([index.reconstruct(number) for number in range(200)])
    space = Space("image", 16, index_folder.read_report(folder).space.fingerprint)
    shutil.rmtree(folder)

    def fill(out: Any) -> None:
        out[:] = rows

    owners, labels = np.arange(200, dtype=np.int32), np.zeros(200, np.int32)
    report = index_folder.build_index(folder, space, owners, labels, 200, fill)
    shutil.copy(artifact, folder / "index.faiss")
    report = replace(report, factory="IDMap2,Flat", efforts=(SearchEffort(10.0, 1, 2, 1.0, 0),))
    (folder / "space.json").write_bytes(orjson.dumps(asdict(report)))


def one_id_short(release: Path, artifact: Path) -> None:
    for name in ("ids.arrow", "ids_order.npy"):
        (release / name).unlink()
    write_item_ids(release, json.loads(artifact.read_bytes()))


@dataclass(frozen=True)
class GoodIndex(Row):
    """An index that loads: HTTP and command line find neighbours by it."""

    place: ClassVar[str] = "library"

    def http(self, library: Library, path: Path) -> None:
        found = good(library.service.client.get("/v1/items/11/similar", params={"space": "image", "k": 5}))
        assert found["release"] == library.release
        self._checked(library, path, found["items"])

    def command(self, library: Library, path: Path) -> None:
        findings = vetrina("doctor", "--store", library.store, "--json").json
        assert {finding["state"] for finding in findings} <= {"good", "off"}
        asked = ("similar", "11", "--space", "image", "-k", "5", "--store", library.store, "--json")
        self._checked(library, path, vetrina(*asked).json["items"])

    def _checked(self, library: Library, path: Path, found: list[dict[str, Any]]) -> None:
        index = faiss.read_index(str(path))
        rows = np.stack([index.reconstruct(number) for number in range(200)])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        scores = rows @ rows[11]
        scores[11] = -1
        assert [item["item_id"] for item in found] == [str(number) for number in np.argsort(-scores)[:5]]


@dataclass(frozen=True)
class Artifact(Row):
    """What is not the file that it `stands_for`: refused by that name, and nothing in it is ever executed.

    HTTP: a release that was published with it becomes current, and a service goes on with the one before and does not
    activate it; one that starts is not ready where such a file got into its release since. Command line: so do
    `doctor` and `similar` refuse; and `build` where it got into the vector store.
    """

    stands_for: str
    put: Callable[[Path, Path], None] | None = None
    place: ClassVar[str] = "library"

    def http(self, library: Library, path: Path) -> None:
        client, live = library.service.client, library.service.app.state.live
        before = good(client.get("/v1/items/11/similar"))
        bad = published(library.store, lambda release: self._put(release, path))
        make_current(library.store, bad)
        until(lambda: live.release_watcher.refused == bad)
        error = refused(client.post(f"/v1/releases/{bad}/activate"), 503)
        assert self.stands_for in error["message"]
        after = good(client.get("/v1/items/11/similar"))
        assert (after["release"], after["items"]) == (library.release, before["items"])
        assert client.get("/readyz").status_code == 200
        make_current(library.store, library.release)
        shutil.rmtree(releases_folder(library.store) / bad)
        with served(Settings(store=self._spoilt(library, path))) as starting:
            for path_ in ("/readyz", "/v1/items/11/similar"):
                assert self.stands_for in refused(starting.client.get(path_), 503)["message"]
        assert not list(Path().rglob("PICKLE*"))

    def command(self, library: Library, path: Path) -> None:
        store = self._spoilt(library, path)
        self._refused(store, "release")
        assert Path(self.stands_for).name in vetrina("similar", "11", "--store", store).error_response(1).replace(
            " ", ""
        )
        other = Path("other").resolve()
        shutil.copytree(library.store, other, symlinks=True)
        (part,) = (other / "vectors/text").rglob("*.arrow")
        part.write_bytes(path.read_bytes())
        self._refused(other, "vectors text", part.name)
        assert part.name in vetrina("build", "--store", other, "--json").error_response(1).replace(" ", "")
        assert current_name(other) == library.release
        assert not list(Path().rglob("PICKLE*"))

    def _put(self, release: Path, artifact: Path) -> None:
        if self.put is not None:
            self.put(release, artifact)
        else:
            (release / self.stands_for).write_bytes(artifact.read_bytes())

    def _spoilt(self, library: Library, artifact: Path) -> Path:
        """A store in whose release the file lies."""
        store = Path("spoilt").resolve()
        shutil.copytree(library.store, store, symlinks=True)
        self._put(releases_folder(store) / library.release, artifact)
        return store

    def _refused(self, store: Path, subject: str, name: str = "") -> None:
        done = vetrina("doctor", "--store", store, "--json")
        assert done.code == 1
        wrong = {each["subject"]: each["detail"] for each in json.loads(done.out) if each["state"] == "wrong"}
        assert set(wrong) == {subject}
        assert (name or self.stands_for) in wrong[subject]


@dataclass(frozen=True)
class Vectors(Row):
    """Vectors of which those without direction are left out, and the others scaled.

    Command line: they lie in the vector store under what the items say, and `build` makes an index of them. HTTP: a
    service over that.
    """

    rejected: tuple[int, ...]
    place: ClassVar[str] = "library"

    def http(self, library: Library, path: Path) -> None:
        with served(Settings(store=self._built(library, path))) as service:
            asked = {"space": "text", "k": 100}
            get = service.client.get
            self._checked(path, lambda item_id: good(get(f"/v1/items/{item_id}/similar", params=asked))["items"])

    def command(self, library: Library, path: Path) -> None:
        store = self._built(library, path)
        asked = ("--space", "text", "-k", "100", "--store", store, "--json")
        self._checked(path, lambda item_id: vetrina("similar", item_id, *asked).json["items"])

    def _built(self, library: Library, path: Path) -> Path:
        rows = np.load(path, allow_pickle=False)
        lines = [f"{number},shelf {number}\n" for number in range(len(rows))]
        Path("feed.csv").write_text("item_id,title\n" + "".join(lines))
        store = Path("store")
        vetrina("ingest", "feed.csv", "--store", store)
        catalogue = Catalogue.current(store)
        keys = [content_key(text) for row in range(len(rows)) for _, text in compose_texts(catalogue.item(row))]
        text = read_manifest(releases_folder(library.store) / library.release).spaces["text"]
        wide = np.zeros((len(rows), text.dim), np.float32)
        wide[:, : rows.shape[1]] = rows
        VectorStore(store, "text", text.fingerprint, text.dim).append(keys, wide)
        built = vetrina("build", "--store", store, "--json").json
        assert [space["encoded"] for space in built["encoded"]] == [0]
        (release,) = vetrina("releases", "--store", store, "--json").json
        made = release["spaces"]["text"]
        assert (made["rows"], made["rejected"]) == (len(rows) - len(self.rejected), len(self.rejected))
        return store

    def _checked(self, path: Path, similar: Callable[[str], list[dict[str, Any]]]) -> None:
        rows = np.load(path, allow_pickle=False)
        kept = [number for number in range(len(rows)) if number not in self.rejected]
        with np.errstate(invalid="ignore"):
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for asked in (0, 11):
            scores = {int(item["item_id"]): item["score"] for item in similar(str(asked))}
            assert sorted([*scores, asked]) == kept
            assert all(score == pytest.approx(float(unit[asked] @ unit[at]), abs=1e-3) for at, score in scores.items())
