"""Messy feeds: which rows become items, and which are rejected or repaired."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from embed.catalogue import Catalogue, Record, open_feed
from helpers.messy.workspace import IMAGES, ODD_ID, Row, Shop, vetrina
from helpers.service import good, refused
from serve.release.repository import current_name

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
