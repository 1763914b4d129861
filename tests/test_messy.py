"""Messy inputs: every file of an optional folder comes to its right outcome, over HTTP and by the command line.

What is right is stated in the folder's README. TABLE has a row for each file: its class says how such a file goes in
each way, its fields what must come of it. HTTP is a real server; commands run in this process as `vetrina` runs them.
"""

import base64
import io
import json
import resource
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

import faiss
import httpx
import numpy as np
import orjson
import pytest
from helpers.command import is_one_line
from helpers.service import Service, good, refused, served, until
from PIL import Image as Pillow
from PIL import ImageSequence

from embed.catalogue import Catalogue, Record, open_feed
from embed.compose import compose_texts
from embed.images import decode_image
from embed.vector_store import VectorStore, content_key
from index import snapshot
from index.faiss_index import Effort
from index.ids import write_ids
from index.space import Space
from serve import cli
from serve.core.settings import Settings
from serve.release.manifest import read_manifest
from serve.release.repository import current_name, draft, make_current, open_current, releases_folder, seal
from serve.storage.event_log import open_event_log

INPUTS = Path(__file__).parents[1] / ".." / "shared" / "inputs"
IMAGES = INPUTS / "images"
T0 = 1767225600.0  # 2026-01-01T00:00:00Z
JSON = {"content-type": "application/json"}
ODD_ID = "a/b c?d#e%2F"

pytestmark = pytest.mark.skipif(not INPUTS.is_dir(), reason=f"the folder of messy inputs {INPUTS} is not here")


# ----------------------------------------------------------------------------------------------- what files go into


class Done(NamedTuple):
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out, parse_constant=lambda name: pytest.fail(f"{name} in an answer"))

    def error_response(self, code: int = 2) -> str:
        """What a refusal says, in one line."""
        assert (self.code, self.out) == (code, ""), self.err
        assert is_one_line(self.err) or "Invalid value" in self.err, self.err
        return " ".join(self.err.split())


def vetrina(*arguments: str | Path) -> Done:
    """Runs a command."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr("sys.argv", ["vetrina", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return Done(code or 0, out.buffer.getvalue().decode(), err.getvalue())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Shop:
    """A store that commands made of a feed of all images and some words, and a service over a copy of it.

    `encoded` is what `vetrina encode` said of the feed, by space.
    """

    store: Path
    encoded: dict[str, dict[str, Any]]
    service: Service
    served_store: Path

    def put(self, body: bytes) -> httpx.Response:
        """PUT /v1/items with a body as it is."""
        return self.service.client.put("/v1/items", content=body, headers=JSON)

    def get(self, item_id: str) -> dict[str, Any]:
        """GET /v1/items/{id}."""
        found: dict[str, Any] = good(self.service.client.get(f"/v1/items/{quote(item_id, safe='')}"))["item"]
        return found

    def delete(self, item_ids: list[str]) -> None:
        """DELETE /v1/items."""
        good(self.service.client.request("DELETE", "/v1/items", json={"item_ids": item_ids}))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("messy")
    items = [
        *({"item_id": path.name, "title": f"picture {path.name}", "image": path.name} for path in IMAGES.iterdir()),
        *({"item_id": number, "title": f"{kind} shoe"} for number, kind in ((1001, "red"), (1002, "blue"))),
        *({"item_id": str(number), "title": f"red shoe number {number}"} for number in (1003, 7, 70, 700)),
    ]
    (folder / "feed.jsonl").write_bytes(b"".join(orjson.dumps(item) + b"\n" for item in items))
    store = folder / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VETRINA_ALIGN", "false")
        ingested = vetrina("ingest", folder / "feed.jsonl", "--store", store, "--json").json
        assert ingested["read"] == ingested["kept"] == len(items)
        encoded = vetrina("encode", "--store", store, "--images", IMAGES, "--json").json
        built = vetrina("build", "--store", store, "--images", IMAGES, "--json").json
        assert built["items"] == len(items)
        assert all(space["encoded"] == 0 for space in built["encoded"])
    served_store = folder / "served"
    shutil.copytree(store, served_store, symlinks=True)
    with served(Settings(store=served_store, image_root=IMAGES, allow_http_images=True)) as service:
        yield Shop(store, {space["space"]: space for space in encoded}, service, served_store)


ASKED: list[tuple[str, Any]] = []  # hosts and ports that were connected to or looked up in this test


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of its own, where a pickle would leave its mark; and nobody beyond the loopback is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VETRINA_ALIGN", "false")
    connect, look_up = socket.socket.connect, socket.getaddrinfo
    ASKED.clear()

    def connected(self: socket.socket, address: Any) -> None:
        ASKED.append((str(address[0]), address[1]))
        assert str(address[0]).startswith("127."), f"a connection to {address}"
        connect(self, address)

    def looked_up(host: Any, port: Any, *arguments: Any, **more: Any) -> Any:
        ASKED.append((str(host), port))
        assert str(host).startswith("127."), f"{host} was looked up"
        return look_up(host, port, *arguments, **more)

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)


@contextmanager
def flat_memory(mib: int = 100) -> Iterator[None]:
    """What is done in here takes no more memory, at its peak, than the process had at its peak before."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < mib << 10


class Row:
    """A file of the folder: `http` and `command` send it in, each its way, and check all that must come of it.

    `place` is the fixture that it goes into.
    """

    place: ClassVar[str] = "shop"


# ----------------------------------------------------------------------------------------------------------- images


def difference(one: Pillow.Image, other: Pillow.Image) -> float:
    assert (one.size, one.mode) == (other.size, other.mode)
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


def same(image: Pillow.Image, path: Path) -> None:
    assert image.size == (96, 64)
    assert difference(image, Pillow.open(IMAGES / "reference_ok.png").convert("RGB")) < 5


def gray(image: Pillow.Image, path: Path) -> None:
    assert difference(image, Pillow.open(path).convert("RGB")) < 1


def ramp(image: Pillow.Image, path: Path) -> None:
    grays = np.asarray(image)
    assert np.ptp(grays, axis=2).max() == 0
    assert (np.diff(grays[0, :, 0].astype(int)) >= 0).all()
    assert grays.min() == 0
    assert grays.max() == 255
    assert 120 <= len(np.unique(grays)) <= 128


def first_frame(image: Pillow.Image, path: Path) -> None:
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Pillow.open(path))]
    assert len(frames) == 3
    assert [difference(image, frame) < 5 for frame in frames] == [True, False, False]
    red, green, blue = np.asarray(image).mean(axis=(0, 1))
    assert red > green + 20
    assert red > blue + 20


@dataclass(frozen=True)
class Image(Row):
    """A photo that looks as `pixels` checks, or is `refused` with this code.

    HTTP: as the photo of a search, multipart and base64, and as the image of an item that is put. Command line: in a
    feed through `ingest`, `encode` and `build`, and `search --image`. A refused one's item keeps its text.
    """

    pixels: Callable[[Pillow.Image, Path], None] | None = None
    refused: str = ""

    def http(self, shop: Shop, path: Path) -> None:
        data = path.read_bytes()
        search = shop.service.client.post
        item = {"item_id": "put", "title": "a put picture", "image": path.name}
        with flat_memory():
            (put,) = good(shop.put(orjson.dumps({"items": [item]})))["items"]
            answers = [
                search("/v1/search", files={"image": (path.name, data)}, data={"k": "100"}),
                search("/v1/search", json={"image": base64.b64encode(data).decode(), "k": 100}),
            ]
        assert put["status"] == "created"
        assert shop.get("put")["title"] == "a put picture"
        assert "put" in shop.service.ids(text="picture", spaces=["text"], k=100)
        if self.refused:
            for answer in answers:
                error = refused(answer)
                assert (error["field"], error["code"]) == ("image", self.refused)
                assert put["warnings"] == [f"image: refused {path.name!r}: {error['message']}"]
            assert "put" not in shop.service.ids(like=["reference_ok.png"], spaces=["image"], k=100)
        else:
            assert put["warnings"] == []
            found, again = (good(answer)["items"] for answer in answers)
            assert found == again
            self._finds_itself(path, found, "put")
        shop.delete(["put"])

    def command(self, shop: Shop, path: Path) -> None:
        failed = Path(shop.encoded["image"]["failures"]).read_text().splitlines()
        failures = {line["item_id"]: line for line in map(json.loads, failed)}
        outcomes = [row.refused for name, row in TABLE.items() if isinstance(row, Image)]
        assert shop.encoded["image"]["failed"] == len(failures) == sum(map(bool, outcomes))
        assert shop.encoded["image"]["rows"] == len(outcomes) - len(failures)  # those after a refused one, too
        with flat_memory():
            done = vetrina("search", "--image", path, "-k", "100", "--store", shop.store, "--json")
        if self.refused:
            assert (failures[path.name]["image"], failures[path.name]["code"]) == (path.name, self.refused)
            assert failures[path.name]["reason"].replace(" ", "") in done.error_response().replace(" ", "")
        else:
            assert path.name not in failures
            self._finds_itself(path, done.json["items"])
        catalogue = Catalogue.current(shop.store)
        row = catalogue.ids().to_pylist().index(path.name)
        assert catalogue.item(row).title == f"picture {path.name}"
        texts = open_current(shop.store).spaces["text"]
        assert len(texts.rows_of(row)[0]) == 1

    def _finds_itself(self, path: Path, found: list[dict[str, Any]], *also: str) -> None:
        """The same file, however it went in, has the same vector; and what all of them decode it to is right."""
        scores = {item["item_id"]: item["score"] for item in found}
        assert all(scores[item_id] == pytest.approx(1, abs=1e-3) for item_id in (path.name, *also))
        assert all(np.isfinite(score) for score in scores.values())
        assert self.pixels is not None
        self.pixels(decode_image(path.read_bytes()), path)


# -------------------------------------------------------------------------------------------------------- catalogue

OVER_HTTP = {  # what a body comes to that a feed's line is rejected for by another code
    "bad_json": "refused",
    "not_an_object": "refused",
    "bad_encoding": "refused",
    "duplicate_id": "created",  # to be updated by the later one
}
ONLY_IN_FILES = {"long_row", "short_row"}  # an object has no wrong number of cells


@dataclass(frozen=True)
class Feed(Row):
    """A feed of which these `items` are kept, with these fields, and these lines rejected with a code.

    HTTP: each line of JSON goes into a PUT as it is, each row of a table as the feed reader reads it (a row it cannot
    decode as its bytes), in the `encoding` of the file where that is what it is about. Command line: `ingest`; and,
    where words `truncated` or titles searched for are the point, `build` and `search`.
    """

    items: dict[str, dict[str, Any]]
    rejects: dict[int, str] = field(default_factory=dict)
    repaired: dict[str, int] = field(default_factory=dict)
    encoding: str = "utf-8"
    truncated: int | None = None
    then: Callable[[Shop], None] | None = None
    then_command: Callable[[Path], None] | None = None

    def http(self, shop: Shop, path: Path) -> None:
        shop.delete([*self.items, "none"])
        told: dict[int, str] = {}
        warnings: Counter[str] = Counter()
        for line, body in self._bodies(path):
            response = shop.put(body)
            if response.status_code == 200:
                (outcome,) = good(response)["items"]
                told[line] = outcome["code"] or outcome["status"]
                assert (outcome["status"] == "rejected") == bool(outcome["message"])
                warnings.update(outcome["warnings"])
            else:
                assert 400 <= response.status_code < 500
                assert refused(response, response.status_code)["field"] in {"body", "items.0"}
                told[line] = "refused"
        rejects = {line: OVER_HTTP.get(code, code) for line, code in self.rejects.items() if code not in ONLY_IN_FILES}
        assert {line: what for line, what in told.items() if what not in {"created", "updated"}} == {
            line: what for line, what in rejects.items() if what != "created"
        }
        counted = Counter(told.values())
        assert counted["created"] == len(self.items)
        assert counted["updated"] == Counter(self.rejects.values())["duplicate_id"]
        assert warnings == Counter(self.repaired) + Counter(text_truncated=self.truncated or 0)
        for item_id, fields in self.items.items():
            found = shop.get(item_id)
            assert {name: found[name] for name in fields} == fields
        assert {*self.items} <= {*shop.service.ids(text="anything", spaces=["text"], k=1000)}
        if self.then is not None:
            self.then(shop)
        shop.delete([*self.items])

    def command(self, shop: Shop, path: Path) -> None:
        store = Path("store")
        report = vetrina("ingest", path, "--store", store, "--json").json
        assert report["read"] == report["kept"] + report["rejected"]
        assert (report["rejects"], report["repaired"]) == (dict(Counter(self.rejects.values())), self.repaired)
        lines = (store / "catalogue/current/rejects.jsonl").read_text().splitlines()
        rejects = [json.loads(line) for line in lines]
        assert {reject["line"]: reject["code"] for reject in rejects} == self.rejects
        assert all(reject["file"] == path.name and reject["reason"] for reject in rejects)
        items = {item.item_id: item for batch in Catalogue.current(store).batches() for item in batch}
        assert list(items) == list(self.items)
        for item_id, fields in self.items.items():
            assert {name: getattr(items[item_id], name) for name in fields} == fields
        if self.truncated is None and self.then_command is None:
            return
        encoded = vetrina("build", path, "--store", store, "--images", IMAGES, "--json").json["encoded"]
        assert {space["space"]: (space["truncated"], space["failed"]) for space in encoded} == {
            "image": (0, 0),
            "text": (self.truncated or 0, 0),
        }
        found = vetrina("search", "anything", "--space", "text", "-k", "100", "--store", store, "--json").json["items"]
        assert {item["item_id"] for item in found} == {*self.items}
        assert all(np.isfinite(item["score"]) for item in found)
        assert all(item["title"] == items[item["item_id"]].title for item in found)
        if self.then_command is not None:
            self.then_command(store)

    def _bodies(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Number and body of every line or row that can be sent."""
        lines = path.read_bytes().split(b"\n")
        if path.suffix == ".jsonl":
            yield from ((number, b'{"items": [%b]}' % line) for number, line in enumerate(lines, 1) if line.strip())
            return
        with open_feed(path) as feed:
            for entry in feed.records:
                if isinstance(entry, Record):
                    yield entry.line, json.dumps({"items": [entry.values]}, ensure_ascii=False).encode(self.encoding)
                elif entry.code == "bad_encoding":
                    item_id, title = lines[entry.line - 1].split(b",")[:2]
                    yield entry.line, b'{"items": [{"item_id": "%b", "title": "%b"}]}' % (item_id, title)


def everywhere(shop: Shop) -> None:
    """An id of characters that URLs are made of is taken by every endpoint."""
    ask, item_id, path = shop.service.client.request, ODD_ID, f"/v1/items/{quote(ODD_ID, safe='')}"
    click = {"event_id": "odd", "user_id": "odd", "item_id": item_id, "type": "click"}
    for method, at, body in (
        ("GET", f"{path}/similar", None),
        ("POST", "/v1/similar", {"item_ids": [item_id]}),
        ("POST", "/v1/search", {"like": [item_id]}),
        ("POST", "/v1/search", {"text": "shoe", "unlike": [item_id], "exclude": [item_id]}),
        ("POST", "/v1/recommend", {"history": [{"item_id": item_id}], "exclude": [item_id]}),
        ("POST", "/v1/candidates", {"history": [{"item_id": item_id}]}),
    ):
        found = [item["item_id"] for item in good(ask(method, at, json=body))["items"]]
        assert found, at
        assert item_id not in found, at
    ranked = good(ask("POST", "/v1/rank", json={"item_ids": [item_id]}))
    assert ([item["item_id"] for item in ranked["items"]], ranked["unknown"]) == ([item_id], [])
    assert item_id in shop.service.ids(text="shoe", k=100)
    (patched,) = good(ask("PATCH", "/v1/items", json={"items": [{"item_id": item_id, "price": 7}]}))["items"]
    assert patched["status"] == "updated"
    assert shop.get(item_id)["price"] == 7
    assert good(ask("POST", f"{path}/copy", json={}))["text"]
    assert good(ask("POST", "/v1/events", json={"events": [click]}))["events"][0]["status"] == "stored"
    assert good(ask("GET", "/v1/users/odd"))["history"][0]["item_id"] == item_id
    preferences = {"blocked_items": [item_id]}
    assert good(ask("PUT", "/v1/users/odd/preferences", json=preferences))["preferences"].items() >= preferences.items()
    good(ask("DELETE", "/v1/users/odd"))
    # These lack what the shop has to have for them, not the item.
    assert "relation" in refused(ask("GET", f"{path}/related"))["message"]
    assert "user model" in refused(ask("POST", "/v1/audience", json={"item_id": item_id}))["message"]
    (deleted,) = good(ask("DELETE", path))["items"]
    assert (deleted["item_id"], deleted["status"]) == (item_id, "deleted")
    assert refused(ask("GET", path), 404)["code"] == "unknown_item"


def by_every_command(store: Path) -> None:
    """The same of commands."""
    at = ("--store", store, "--json")
    for command in (
        ("similar", ODD_ID),
        ("search", "--like", ODD_ID),
        ("search", "id", "--unlike", ODD_ID),
        ("recommend", "--item", ODD_ID),
    ):
        assert [item["item_id"] for item in vetrina(*command, *at).json["items"]] == ["7001"]
    assert vetrina("copy", ODD_ID, *at).json["texts"][0]["item_id"] == ODD_ID


@dataclass(frozen=True)
class NoProducts(Row):
    """A feed of nothing: it is counted as that, and replaces nothing.

    HTTP: no items in a PUT; and a service goes on when the command refuses such a feed for its store. Command line:
    `ingest` into a new store, `build` into one that has products.
    """

    def http(self, shop: Shop, path: Path) -> None:
        before = good(shop.service.search(text="shoe", k=100))
        assert refused(shop.put(b'{"items": []}'))["field"] == "items"
        assert "0 usable products" in vetrina("build", path, "--store", shop.served_store, "--json").error_response()
        after = good(shop.service.search(text="shoe", k=100))
        assert (after["release"], after["items"]) == (before["release"], before["items"])

    def command(self, shop: Shop, path: Path) -> None:
        report = vetrina("ingest", path, "--store", "store", "--json").json
        assert (report["read"], report["kept"], report["rejected"]) == (0, 0, 0)
        assert "0 read = 0 kept + 0 rejected" in vetrina("ingest", path, "--store", "store").out
        assert "nothing to release" in vetrina("build", path, "--store", "store", "--json").error_response()
        items, release = len(Catalogue.current(shop.store)), current_name(shop.store)
        for command in ("ingest", "build"):
            assert "0 usable products" in vetrina(command, path, "--store", shop.store, "--json").error_response()
        assert (len(Catalogue.current(shop.store)), current_name(shop.store)) == (items, release)


# ----------------------------------------------------------------------------------------------------------- events

MAPPING = """
[columns]
user_id = "UserId"
item_id = "ItemId"
timestamp = "Timestamp"
type = "favori"
[types]
favori = "cart"
"""
Told = tuple[str, str, float, float | None]  # item, type, time, value
Ask = tuple[Callable[[str], list[Told]], Callable[[str | None], dict[str, float]]]
"""What a user did, the latest first; and what one is recommended, None for nobody in particular, with scores."""


@dataclass(frozen=True)
class Events(Row):
    """Events of which each user has this `history`, with so many `duplicates`, and these lines rejected with a code.

    HTTP: each line goes into a POST as it is. Command line: `events FILE`, into a store of its own. Both ways the same
    lines in the order of time come to the same, and who is not known gets what anybody gets.
    """

    history: dict[str, list[Told]]
    duplicates: int = 0
    rejects: dict[int, str] = field(default_factory=dict)
    liked: str = ""  # the only item that they say something for

    @property
    def stored(self) -> int:
        return sum(map(len, self.history.values()))

    def http(self, shop: Shop, path: Path) -> None:
        ask = shop.service.client.request
        items = [{"item_id": item_id, "title": f"shoe number {item_id}"} for item_id in ("1001", "1002", "1003")]
        good(ask("PUT", "/v1/items", json={"items": items}))

        def sent(lines: list[bytes]) -> list[dict[str, Any]]:
            answers = [ask("POST", "/v1/events", content=b'{"events": [%b]}' % line, headers=JSON) for line in lines]
            return [event for answer in answers for event in good(answer)["events"]]

        def history(user: str) -> list[Told]:
            found = good(ask("GET", f"/v1/users/{user}"))
            assert found["events"] == len(found["history"])
            return [(told["item_id"], told["type"], told["timestamp"], told.get("value")) for told in found["history"]]

        def recommended(user: str | None) -> dict[str, float]:
            found = good(ask("POST", "/v1/recommend", json={"user_id": user, "k": 100}))["items"]
            return {item["item_id"]: item["score"] for item in found}

        self._forget(shop)
        lines = _lines(path)
        told = sent(lines)
        assert {line: event["code"] for line, event in enumerate(told, 1) if event["code"]} == self.rejects
        assert all(bool(event["message"]) == (event["status"] == "rejected") for event in told)
        statuses = Counter(event["status"] for event in told)
        assert statuses["parked"] == sum(event[0] == "no-such-item" for each in self.history.values() for event in each)
        assert statuses["stored"] + statuses["parked"] == self.stored
        assert statuses["duplicate"] == self.duplicates
        came_to = self._checked((history, recommended))
        if self.liked:
            sent([orjson.dumps(self._liking)])
            self._checked_liking(recommended)
        self._forget(shop)
        sent(_by_time(lines))
        assert self._checked((history, recommended)) == came_to
        self._forget(shop)

    def command(self, shop: Shop, path: Path) -> None:
        for name in ("store", "other"):
            shutil.copytree(shop.store, name, symlinks=True)
        report = vetrina("events", path, "--store", "store", "--json").json
        assert report["read"] == self.stored + self.duplicates + len(self.rejects)
        assert (report["stored"], report["duplicates"]) == (self.stored, self.duplicates)
        assert (report["rejected"], report["rejects"]) == (len(self.rejects), dict(Counter(self.rejects.values())))
        rejects = [json.loads(line) for line in Path("store/events-rejects.jsonl").read_text().splitlines()]
        assert {reject["line"]: reject["code"] for reject in rejects} == self.rejects
        assert all(reject["reason"] for reject in rejects)
        came_to = self._checked(_asking(Path("store")))
        Path("sorted.jsonl").write_bytes(b"\n".join(_by_time(_lines(path))))
        vetrina("events", "sorted.jsonl", "--store", "other")
        assert self._checked(_asking(Path("other"))) == came_to
        if self.liked:
            Path("liking.jsonl").write_bytes(orjson.dumps(self._liking))
            vetrina("events", "liking.jsonl", "--store", "store")
            self._checked_liking(_asking(Path("store"))[1])
            vetrina("build", "--store", "store", "--images", IMAGES)  # counts what is popular
            found = vetrina("recommend", "nobody", "-k", "100", "--store", "store", "--json").json["items"]
            assert {item["item_id"] for item in found if item["retriever_scores"].get("popularity")} == {self.liked}

    def _checked(self, ask: Ask) -> dict[str, Any]:
        """What every user did and is recommended, after that was found to be right."""
        history, recommended = ask
        found = {user: history(user) for user in self.history}
        for user, told in found.items():
            times = [event[2] for event in told]
            assert times == sorted(times, reverse=True)
            assert Counter(told) == Counter(self.history[user])
        assert recommended("nobody") == recommended(None) != {}
        return {user: ([event[2] for event in found[user]], recommended(user)) for user in found}

    def _checked_liking(self, recommended: Callable[[str | None], dict[str, float]]) -> None:
        """To rate an item low or dislike it does no item any good: all that is recommended comes of what is liked."""
        (user,) = self.history
        ours, theirs = recommended(user), recommended("liking")
        assert max(ours.values()) > 0
        assert all(score <= theirs[item_id] for item_id, score in ours.items())

    @property
    def _liking(self) -> dict[str, Any]:
        return {"user_id": "liking", "item_id": self.liked, "type": "rating", "value": 5, "timestamp": T0}

    def _forget(self, shop: Shop) -> None:
        for user in (*self.history, "liking"):
            good(shop.service.client.delete(f"/v1/users/{user}"))


def _asking(store: Path) -> Ask:
    """The same of a store, by the command line."""

    def history(user: str) -> list[Told]:
        events = open_event_log(Settings(store=store))
        found = [(event.item_id, event.type, event.timestamp, event.value) for event in events.recent(user, 100)]
        events.close()
        return found[::-1]

    def recommended(user: str | None) -> dict[str, float]:
        who = () if user is None else (user,)
        found = vetrina("recommend", *who, "-k", "100", "--store", store, "--json").json["items"]
        return {item["item_id"]: item["score"] for item in found}

    return history, recommended


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().rstrip(b"\n").split(b"\n")


def _by_time(lines: list[bytes]) -> list[bytes]:
    """Lines in the order of their times, as far as these are numbers."""

    def time_of(line: bytes) -> float:
        given = json.loads(line)["timestamp"]
        return given if isinstance(given, int) else 0

    return sorted(lines, key=time_of)


@dataclass(frozen=True)
class ForeignEvents(Row):
    """A table of events under other names: taken with a mapping, refused as a whole without.

    HTTP has no mapping: rows as they are, are rejected one by one; under the contract's names they are taken, their
    times as UTC. Command line: `events FILE`, with `--mapping` and without.
    """

    def http(self, shop: Shop, path: Path) -> None:
        post = shop.service.client.post
        with open_feed(path, format="csv") as feed:
            rows = [record.values for record in feed.records if isinstance(record, Record)]
        as_they_are = good(post("/v1/events", json={"events": rows}))["events"]
        assert [(event["status"], event["code"]) for event in as_they_are] == [("rejected", "missing_user_id")] * 3
        named = [
            {"user_id": row["UserId"], "item_id": row["ItemId"], "type": "cart", "timestamp": row["Timestamp"]}
            for row in rows
        ]
        taken = good(post("/v1/events", json={"events": named}))["events"]
        assert [event["status"] for event in taken] == ["parked"] * 3
        history = good(shop.service.client.get("/v1/users/3423"))["history"]
        assert [event["timestamp"] for event in history] == [_utc(21, 20, 13), _utc(21, 20, 11)]
        for user in ("3423", "2823"):
            good(shop.service.client.delete(f"/v1/users/{user}"))

    def command(self, shop: Shop, path: Path) -> None:
        error_response = vetrina("events", path, "--store", "store", "--json").error_response()
        assert "favori, UserId, ItemId, Timestamp" in error_response
        Path("mapping.toml").write_text(f'timezone = "Europe/Paris"\n{MAPPING}')
        report = vetrina("events", path, "--store", "store", "--mapping", "mapping.toml", "--json").json
        assert (report["read"], report["stored"], report["rejected"]) == (3, 3, 0)
        events = open_event_log(Settings(store=Path("store")))
        assert [event.timestamp for event in events.recent("3423", 10)] == [_utc(19, 20, 11), _utc(19, 20, 13)]
        assert [(event.item_id, event.type) for event in events.recent("2823", 10)] == [("186085", "cart")]
        events.close()


def _utc(*time: int) -> float:
    return datetime(2022, 6, 24, *time, tzinfo=UTC).timestamp()


# --------------------------------------------------------------------------------------------------------- requests


@dataclass(frozen=True)
class Request(Row):
    """A search that is refused for this `field`; without one it is answered with ten items, none of the excluded.

    HTTP: as it is. Command line: `search` with the same words and -k; what is excluded is a filter there, which has a
    limit of its own.
    """

    field: str = ""

    def http(self, shop: Shop, path: Path) -> None:
        response = shop.service.client.post("/v1/search", content=path.read_bytes(), headers=JSON)
        if self.field:
            assert refused(response)["field"] == self.field
            return
        found = [item["item_id"] for item in good(response)["items"]]
        assert len(found) == 10
        assert not {*found} & {*json.loads(path.read_bytes())["exclude"]}
        assert {"7", "70", "700"} <= {*shop.service.ids(text="red shoe")}

    def command(self, shop: Shop, path: Path) -> None:
        asked = json.loads(path.read_bytes())
        excluded = {"not": {"item_id": {"in": asked["exclude"]}}} if "exclude" in asked else {}
        arguments = ("search", asked["text"], "-k", str(asked["k"]), "--filter", json.dumps(excluded))
        error_response = vetrina(*arguments, "--store", shop.store, "--json").error_response()
        assert {"k": "-k", "text": "blank"}.get(self.field, "at most 5000") in error_response


@dataclass(frozen=True)
class Urls(Row):
    """Addresses that are refused before anything is asked of anybody.

    HTTP: as the photo of a search, and as the image of an item that is put, where images are fetched. Command line:
    in a feed, through `ingest` and `encode`.
    """

    def http(self, shop: Shop, path: Path) -> None:
        for url in path.read_text().splitlines():
            item = {"item_id": "put", "title": "put", "image": url}
            (put,) = good(shop.put(orjson.dumps({"items": [item]})))["items"]
            (warning,) = put["warnings"]
            assert (httpx.URL(url).host or url) in warning
            assert refused(shop.service.search(image=url))["field"] == "image"
        assert {port for _, port in ASKED} <= {shop.service.client.base_url.port}
        shop.delete(["put"])

    def command(self, shop: Shop, path: Path) -> None:
        urls = path.read_text().splitlines()
        rows = [{"item_id": url, "title": f"number {number}", "image": url} for number, url in enumerate(urls)]
        rows.append({"item_id": "good", "image": str(IMAGES.resolve() / "reference_ok.jpg")})
        Path("feed.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
        vetrina("ingest", "feed.jsonl", "--store", "store")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VETRINA_ALLOW_HTTP_IMAGES", "true")
            images, texts = vetrina("encode", "--store", "store", "--images", IMAGES, "--json").json
        failures = [json.loads(line) for line in Path(images["failures"]).read_text().splitlines()]
        assert [failure["image"] for failure in failures] == urls
        assert {failure["code"] for failure in failures} == {"fetch_forbidden"}
        assert (images["failed"], images["rows"], texts["rows"]) == (len(urls), 1, len(urls))
        assert ASKED == []


# -------------------------------------------------------------------------------------------------------- artifacts


@dataclass(frozen=True)
class Library:
    """A store of 200 items, ids 0 to 199, and a service over it: its index of images is the folder's good one."""

    store: Path
    service: Service
    release: str


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("library")
    feed, store = folder / "feed.csv", folder / "store"
    lines = [f"{number},book {number},reference_ok.jpg\n" for number in range(200)]
    feed.write_text("item_id,title,image\n" + "".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VETRINA_ALIGN", "false")
        vetrina("build", feed, "--store", store, "--images", IMAGES)
    release = published(store, lambda folder: put_good_index(folder, INPUTS / "artifacts/index_ok_200x16.faiss"))
    make_current(store, release)
    with served(Settings(store=store)) as service:
        yield Library(store, service, release)


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
    space = Space("image", 16, snapshot.read_report(folder).space.fingerprint)
    shutil.rmtree(folder)

    def fill(out: Any) -> None:
        out[:] = rows

    owners, labels = np.arange(200, dtype=np.int32), np.zeros(200, np.int32)
    report = snapshot.build(folder, space, owners, labels, 200, fill)
    shutil.copy(artifact, folder / "index.faiss")
    report = replace(report, factory="IDMap2,Flat", efforts=(Effort(10.0, 1, 2, 1.0, 0),))
    (folder / "space.json").write_bytes(orjson.dumps(asdict(report)))


def one_id_short(release: Path, artifact: Path) -> None:
    for name in ("ids.arrow", "ids_order.npy"):
        (release / name).unlink()
    write_ids(release, json.loads(artifact.read_bytes()))


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
        until(lambda: live._refused == bad)
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


# ------------------------------------------------------------------------------------------------------------ table


def titled(**titles: str | None) -> dict[str, dict[str, Any]]:
    return {item_id.lstrip("_"): {"title": title} for item_id, title in titles.items()}


PRICES = [1299.0] * 5 + [None, None, 0.0, None, None, 3.5, None, None]
TABLE: dict[str, Row] = {
    "images/animated.gif": Image(first_frame),
    "images/animated.webp": Image(first_frame),
    "images/bomb_25000x25000_1bit.png": Image(refused="too_many_pixels"),
    "images/cmyk.jpg": Image(same),
    "images/exif_orientation6.jpg": Image(same),
    "images/gray16.png": Image(ramp),
    "images/gray8.jpg": Image(gray),
    "images/html_page.jpg": Image(refused="not_an_image"),
    "images/one_pixel.png": Image(refused="too_small"),
    "images/photo.avif": Image(same),
    "images/png_named_as.jpg": Image(same),
    "images/reference_ok.jpg": Image(same),
    "images/reference_ok.png": Image(same),
    "images/truncated.jpg": Image(refused="truncated"),
    "images/truncated.png": Image(refused="truncated"),
    "images/vector.svg": Image(refused="unsupported_format"),
    "images/wide_2000x3.png": Image(refused="bad_ratio"),
    "images/zero_bytes.jpg": Image(refused="empty"),
    "catalogue/bom_header.csv": Feed(
        {
            "1001": {"title": "Red running shoe", "description": "Light road shoe", "price": 59.9, "currency": "EUR"},
            "1002": {"title": "Blue running shoe", "description": "Trail shoe", "price": 69.9, "currency": "EUR"},
        },
        encoding="utf-8-sig",
    ),
    "catalogue/broken_lines.jsonl": Feed(
        {
            "8301": {"title": "good", "price": 9.9},
            "8303": {"title": "good after bad", "price": 9.9},
            "8304": {"title": "NaN price", "price": None},
            "8305": {"title": "last line has no newline", "price": 9.9},
        },
        {2: "bad_json", 6: "not_an_object"},
        {"price_unknown": 1},
    ),
    "catalogue/duplicate_ids.csv": Feed(
        {
            "1001": {"title": "Red running shoe (new title)", "description": "Newer row", "price": 49.9},
            "1003": {"title": "Sock with padded id"},
        },
        {2: "duplicate_id", 4: "duplicate_id"},
    ),
    "catalogue/emoji_cjk_rtl.jsonl": Feed(
        titled(
            _6201="👟🔥 Sneaker 👩🏽\u200d🚀🏳\ufe0f\u200d🌈",
            _6202="红色跑步鞋 男士",
            _6203="赤いランニングシューズ",
            _6204="حذاء جري أحمر",
            _6205="נעל ריצה אדומה",
            _6206="\u202eeohs detresrever",
            _6207="Ｒｅｄ\u3000ｓｈｏｅ",
            _6208="İSTANBUL ıslak STRASSE straße",
            _6209="👟",
            _6210=None,  # blank, so that only its image and its category are left of it
        ),
        truncated=0,
    ),
    "catalogue/empty.csv": NoProducts(),
    "catalogue/header_only.csv": NoProducts(),
    "catalogue/html_description.jsonl": Feed(
        {
            "6001": {"title": "Lamp", "description": "Bright & warm lamp E27 €5 off"},
            "6002": {"title": "5 < 6 & 7 > 2 puzzle", "description": "plain text, not HTML: a<b and b>c"},
        },
        repaired={"html_stripped": 1},
    ),
    "catalogue/leading_zero_ids.csv": Feed(
        titled(_00123="Mug A", _123="Mug B", _0123="Mug C", _1e5="Mug D", _100000="Mug E")
    ),
    "catalogue/long_description.jsonl": Feed(
        {
            "6101": {"title": "Table lamp", "description": ("Hand-made table lamp. " * 500)[:10_000].strip()},
            "6102": {"title": ("lamp " * 200).strip(), "description": "title itself is over 77 tokens"},
            "6103": {"title": "x" * 5000, "description": "one word of 5,000 letters"},
        },
        truncated=1,
    ),
    "catalogue/missing_and_nan_titles.csv": Feed(
        {
            "2001": {"title": None, "description": "Only a description"},
            "2002": {"title": None, "description": "Blank title"},
            "2003": {"title": "NaN", "description": "Indian bread brand"},
            "2004": {"title": "NA", "description": "Namibia travel map"},
            "2005": {"title": "None", "description": "Perfume called None"},
        },
        {7: "nothing_to_embed", 8: "nothing_to_embed"},
    ),
    "catalogue/mixed_encodings.csv": Feed(titled(_8001="Crème brûlée (UTF-8)"), {3: "bad_encoding", 4: "bad_encoding"}),
    "catalogue/null_bytes.csv": Feed(titled(_8101="Null inside", _8102="Clean row"), repaired={"nul_removed": 1}),
    "catalogue/number_ids.jsonl": Feed(
        {"7001": {"title": "string id, same digits"}, ODD_ID: {"title": "id with URL characters"}},
        {1: "duplicate_id", 3: "bad_id", 4: "missing_id", 5: "missing_id", 6: "bad_id", 7: "bad_id"},
        then=everywhere,
        then_command=by_every_command,
    ),
    "catalogue/one_bad_row.csv": Feed(
        titled(_4001="Good A", _4004='Unclosed "quote inside', _4005="Good B"), {3: "long_row", 4: "short_row"}
    ),
    "catalogue/prices.csv": Feed(
        {str(5001 + row): {"title": f"Priced item {row}", "price": price} for row, price in enumerate(PRICES)},
        repaired={"price_unknown": 5},
    ),
    "catalogue/quotes_and_newlines.csv": Feed(
        {
            "3001": {
                "title": '24" monitor, "UltraSharp"',
                "description": "Line one\nLine two, with comma\n\nLine four",
                "price": 199.0,
            },
            "3002": {
                "title": "After the multi-line row",
                "description": "must still be product 3002",
                "price": 9.0,
                "currency": "EUR",
                "images": ["reference_ok.jpg"],
            },
        }
    ),
    "catalogue/semicolon_decimal_comma.csv": Feed({"8401": {"title": "Lampe", "price": 12.5, "currency": "EUR"}}),
    "catalogue/utf16.csv": Feed(titled(_8201="UTF-16 Excel export"), encoding="utf-16"),
    "events/duplicates.jsonl": Events({"u1": [("1001", "click", T0, None)] * 2}, duplicates=3),
    "events/future_and_zero.jsonl": Events(
        {"u1": [("1001", "click", T0, None)]},
        rejects={
            2: "time_ahead",
            3: "time_too_early",
            4: "time_too_early",
            5: "missing_time",
            6: "missing_time",
            7: "bad_time",
        },
    ),
    "events/gorse_style.csv": ForeignEvents(),
    "events/iso_timezones.jsonl": Events(
        {"u1": [("1001", "click", T0, None)] * 7}, rejects=dict.fromkeys((8, 9, 10, 11), "bad_time")
    ),
    "events/negative_ratings.jsonl": Events(
        {"u1": [("1001", "rating", T0, -1.0), ("1002", "rating", T0, 5.0), ("1001", "dislike", T0, None)]},
        duplicates=2,
        rejects={3: "bad_value", 4: "bad_value"},
        liked="1002",
    ),
    "events/out_of_order.jsonl": Events(
        {
            "u1": [
                ("1001", "click", T0 + 300, None),
                ("1003", "purchase", T0 + 200, None),
                ("1002", "click", T0 + 100, None),
                ("1003", "click", T0 + 50, None),
            ],
            "u2": [("1001", "click", T0 + 10, None)],
        }
    ),
    "events/unknown_ids.jsonl": Events(
        {
            "u1": [("no-such-item", "click", T0, None)],
            "never-seen-user": [("1001", "click", T0, None)],
            "42": [("1001", "click", T0, None)],
        },
        rejects={3: "missing_user_id", 4: "missing_user_id", 5: "missing_item_id", 6: "unknown_type"},
    ),
    "requests/blank_query.json": Request("text"),
    "requests/empty_query.json": Request("text"),
    "requests/exclude_10000_ids.json": Request(),
    "requests/k_negative.json": Request("k"),
    "requests/k_too_large.json": Request("k"),
    "requests/k_zero.json": Request("k"),
    "requests/ssrf_urls.txt": Urls(),
    "artifacts/canary_ids.npy": Artifact("ids_order.npy"),
    "artifacts/canary_metadata.pkl": Artifact("spaces/image/space.json"),
    "artifacts/ids_one_short.json": Artifact("ids.arrow", one_id_short),
    "artifacts/index_cut_half.faiss": Artifact("spaces/image/index.faiss"),
    "artifacts/index_ok_200x16.faiss": GoodIndex(),
    "artifacts/index_zero_bytes.faiss": Artifact("spaces/image/index.faiss"),
    "artifacts/vectors_nan_zero_unnormalised.npy": Vectors((3, 7, 13)),
}


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name in TABLE for way in ("http", "command")],
)
def test_messy(request: pytest.FixtureRequest, name: str, way: str) -> None:
    row = TABLE[name]
    getattr(row, way)(request.getfixturevalue(row.place), INPUTS / name)


def test_the_table_names_every_file_and_no_other() -> None:
    files = {path.relative_to(INPUTS).as_posix() for path in INPUTS.rglob("*") if path.is_file()}
    assert files - {"README.md"} == set(TABLE)
