"""Exports: what is read back is what the service answers, live changes included, and a file is whole or not there."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import Run
from helpers.service import Service, good, served

from embed.catalogue.item import ITEM_SCHEMA
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.jobs.export_catalogue import export_items, export_neighbours, export_vectors
from serve.release.repository import open_current

K = 7


@pytest.fixture(scope="module")
def settings(trained: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A copy of the trained store, to be changed."""
    store = tmp_path_factory.mktemp("export") / "store"
    shutil.copytree(trained.store, store, symlinks=True)
    return trained.model_copy(update={"store": store})


@pytest.fixture(scope="module")
def service(settings: Settings) -> Iterator[Service]:
    """The shop with an item more, one with other words and no picture, one with another price, and one gone."""
    ids = [item.as_py() for item in open_current(settings.store).catalogue.ids()]
    with served(settings) as running:
        new = {"item_id": "NEW/1", "title": "Dotted mug", "price": "8.50 EUR", "image": "images/MUG-0001.jpg"}
        other = {"item_id": ids[3], "title": "Words alone", "attributes": {"color": ["red", "blue"]}}
        patch = {"item_id": ids[5], "price": 1.25, "available": False}
        for method, body in (
            ("PUT", {"items": [new, other]}),
            ("PATCH", {"items": [patch]}),
            ("DELETE", {"item_ids": [ids[8]]}),
        ):
            rows = good(running.client.request(method, "/v1/items", json=body))["items"]
            assert {row["status"] for row in rows} <= {"created", "updated", "deleted"}, rows
        yield running


def test_items_are_those_that_answer(service: Service, settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    report = export_items(settings, file)
    table = pq.read_table(file)
    assert table.schema.equals(ITEM_SCHEMA, check_metadata=False)
    assert report.rows == report.items == len(table) == 72
    assert len({*table["item_id"].to_pylist()}) == 72
    assert "NEW/1" in table["item_id"].to_pylist()
    for row in table.to_pylist():
        told = good(service.client.get(f"/v1/items/{row['item_id'].replace('/', '%2F')}"))["item"]
        assert {**row, "attributes": dict(row["attributes"])} == {name: told[name] for name in row}


def test_vectors_are_those_that_are_searched(service: Service, settings: Settings, tmp_path: Path) -> None:
    release = open_current(settings.store)
    for space, entry in release.manifest.indexes.items():
        file = tmp_path / f"{space}.parquet"
        assert export_vectors(settings, file, space).items == 72
        table = pq.read_table(file)
        kind = table.schema.field("vector").type
        assert pa.types.is_fixed_size_list(kind)
        assert (kind.value_type, kind.list_size) == (pa.float32(), entry.dim)
        assert described(file, "release", "space", "fingerprint", "metric") == [
            release.name,
            space,
            entry.fingerprint,
            "cosine",
        ]
        assert set(table["space"].to_pylist()) == {space}
        vectors = np.array(table["vector"].to_pylist(), np.float32)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        owners, labels = table["item_id"].to_numpy(), table["label"].to_numpy()
        for owner, label, vector in zip(owners, labels, vectors, strict=True):
            if label == labels[owners == owner][0]:
                for one in neighbours(service, owner, space):
                    assert (vectors[owners == one["item_id"]] @ vector).max() == pytest.approx(one["score"], abs=1e-3)
        several = next(item for batch in release.catalogue.batches() for item in batch if len(item.images) > 1)
        if space == "image":
            assert labels[owners == several.item_id].tolist() == list(range(len(several.images)))


@pytest.mark.parametrize("space", [None, "image", "text", "tower"])
def test_neighbours_are_those_of_similar(
    service: Service, settings: Settings, tmp_path: Path, space: str | None
) -> None:
    items, file = tmp_path / "items.parquet", tmp_path / "neighbours.parquet"
    export_items(settings, items)
    report = export_neighbours(settings, file, space, K)
    table = pq.read_table(file)
    release = open_current(settings.store)
    names = [space] if space else ["image", "text"]
    prints = ",".join(release.manifest.indexes[name].fingerprint for name in names)
    wanted = [release.name, ",".join(names), prints, "cosine" if space else "fused", str(K)]
    assert described(file, "release", "space", "fingerprint", "metric", "k") == wanted
    listed: dict[str, list[Any]] = {item_id: [] for item_id in pq.read_table(items)["item_id"].to_pylist()}
    for row in table.to_pylist():
        listed[row["item_id"]].append((row["rank"], row["neighbour_id"], pytest.approx(row["score"], abs=2e-4)))
    assert report.rows == len(table) >= 71 * K
    for item_id, found in listed.items():
        told = neighbours(service, item_id, space)
        assert [(rank, one["item_id"], one["score"]) for rank, one in enumerate(told, 1)] == found, item_id


@pytest.mark.parametrize(
    "export",
    [
        export_items,
        lambda settings, file, progress: export_vectors(settings, file, "image", progress),
        lambda settings, file, progress: export_neighbours(settings, file, None, K, progress),
    ],
)
def test_a_file_is_whole_or_as_it_was(built: Settings, tmp_path: Path, export: Callable[..., Any]) -> None:
    file = tmp_path / "out.parquet"
    file.write_text("before")

    def stop(stage: str, done: float, total: float, unit: str) -> None:
        assert 0 < done <= total == 72
        assert file.read_text() == "before"  # what a kill at this moment leaves
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(built, file, stop)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["before"]
    export(built, file, None)
    assert [len(pq.read_table(each)) >= 72 for each in tmp_path.iterdir()] == [True]


def test_a_space_that_is_not_there_is_named(built: Settings, tmp_path: Path) -> None:
    for export in (
        lambda file: export_vectors(built, file, "tower"),
        lambda file: export_neighbours(built, file, "tower", K),
    ):
        with pytest.raises(BadRequest, match="'tower': this release has image, text"):
            export(tmp_path / "out.parquet")
    assert not list(tmp_path.iterdir())


def test_the_command_line_writes_them(run: Run, built: Settings, tmp_path: Path) -> None:
    index = open_current(built.store).spaces["text"]
    vectors = sum(len(index.item_rows(number)[0]) for number in range(72))
    for what, rows in (
        (["items"], 72),
        (["vectors", "--space", "text"], vectors),
        (["neighbours", "--k", "3"], 72 * 3),
    ):
        file = tmp_path / "out.parquet"
        code, printed, errors = run("export", *what, "--out", file, "--store", built.store, "--json")
        assert (code, errors) == (0, "")
        assert json.loads(printed)["rows"] == len(pq.read_table(file)) == rows
    code, _, errors = run("export", "items", "--out", tmp_path / "nowhere" / "out.parquet", "--store", built.store)
    assert code == 1
    assert "nowhere" in "".join(errors.split())  # a long path is wrapped


def neighbours(service: Service, item_id: str, space: str | None) -> list[dict[str, Any]]:
    params = {"k": K} | ({"space": space} if space else {})
    path = f"/v1/items/{item_id.replace('/', '%2F')}/similar"
    found: list[dict[str, Any]] = good(service.client.get(path, params=params))["items"]
    return found


def described(file: Path, *names: str) -> list[str]:
    about = pq.read_metadata(file).metadata
    return [about[name.encode()].decode() for name in names]
