"""Messy event files: which rows become events, and which are rejected."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from embed.catalogue import Record, open_feed
from helpers.messy.workspace import IMAGES, JSON, T0, Row, Shop, vetrina
from helpers.service import good
from serve.core.settings import Settings
from serve.storage.event_log import open_event_log

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
        # Over HTTP, null is the current time: only in a file is it a missing one.
        numbered = {row: line for row, line in enumerate(_lines(path), 1) if b'"timestamp": null' not in line}
        lines = list(numbered.values())
        told = sent(lines)
        rejects = {row: code for row, code in self.rejects.items() if row in numbered}
        assert {row: event["code"] for row, event in zip(numbered, told, strict=True) if event["code"]} == rejects
        assert all(bool(event["message"]) == (event["status"] == "rejected") for event in told)
        statuses = Counter(event["status"] for event in told)
        assert statuses["pending"] == sum(
            event[0] == "no-such-item" for each in self.history.values() for event in each
        )
        assert statuses["stored"] + statuses["pending"] == self.stored
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
        assert [event["status"] for event in taken] == ["pending"] * 3
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
