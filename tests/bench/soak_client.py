"""The clients of the soak test: their requests and changes, and the checks of the responses."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple
from urllib.parse import quote

import orjson
from soak_shop import CLUSTERS, GRACE, LIVE, SEED, Row, Shop, draw_price, number_of

CLIENTS = 8
PAUSE = 0.1  # seconds between the requests of a client, on average
REQUESTS_PER_CONNECTION = 20  # then reconnect, because a connection stays with one worker
TIMEOUT = 30.0  # seconds after which a request counts as failed
K = 10
FIELDS = ("price", "category", "domain")
MIX = {  # actions of a client, with their weights
    "similar": 42,
    "filtered": 20,
    "again": 12,
    "words": 8,
    "deleted": 2,
    "create": 3,
    "change": 4,
    "patch": 6,
    "delete": 3,
}


class Connection:
    """A plain HTTP connection; a full client would take more CPU time than the service under test."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._left = 0

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return status and response; raise OSError, EOFError or TimeoutError if there is none."""
        data = b"" if body is None else orjson.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        try:
            async with asyncio.timeout(TIMEOUT):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                    self._left = REQUESTS_PER_CONNECTION
                reader, writer = self._streams
                writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
                lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                headers = dict(line.split(b": ", 1) for line in lines[1:] if line)
                response = orjson.loads(await reader.readexactly(int(headers[b"content-length"])))
        except BaseException:
            self.close()
            raise
        self._left -= 1
        if not self._left or headers.get(b"connection") == b"close":
            self.close()
        return int(lines[0].split()[1]), response

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


class CompletedRequest(NamedTuple):
    """A request with the release that served it."""

    started: float
    seconds: float
    is_similar: bool
    release: str


@dataclass
class Record:
    """The outcomes of all requests."""

    requests: int = 0
    failed: int = 0
    late_deletes: int = 0
    late_changes: int = 0
    foreign: int = 0  # responses with other categories than the requested item's, or unknown items
    errors: Counter[str] = field(default_factory=Counter)
    requested: list[CompletedRequest] = field(default_factory=list)
    shown: Counter[tuple[str, frozenset[str]]] = field(default_factory=Counter)  # release, and the marks of a response
    written: Counter[str] = field(default_factory=Counter)

    def count_error(self, reason: str) -> None:
        self.errors[reason] += 1


class Client:
    """Requests and changes one thing after the other; changes only its own items, so that it knows their order.

    `near` maps own items that were in a response to the requested item: the same request later shows their changes.
    """

    def __init__(self, number: int, shop: Shop, record: Record, port: int) -> None:
        self._number, self._shop, self._record = number, shop, record
        self._source = random.Random(f"{SEED} {number}")
        self._connection = Connection(port)
        self._near: dict[str, str] = {}
        self._touched: list[tuple[str, str, float]] = []  # changed items, the request that shows them, and when
        self._made = 0

    async def run(self, ended: Callable[[], bool]) -> None:
        kinds, weights = list(MIX), list(MIX.values())
        while not ended():
            kind = self._source.choices(kinds, weights)[0]
            await getattr(self, f"_{kind}")()
            await asyncio.sleep(self._source.expovariate(1 / PAUSE))
        self._connection.close()

    async def ask(self, method: str, path: str, body: Any = None, of: str = "") -> tuple[float, Any]:
        """Send a request; return its start and the response, or None if it failed or item `of` was deleted."""
        record, started = self._record, time.monotonic()
        record.requests += 1
        operation = f"{method} {path.partition('?')[0].replace(quote(of), 'ID') if of else path}"
        try:
            status, response = await self._connection.ask(method, path, body)
        except (OSError, EOFError, TimeoutError) as error:
            record.failed += 1
            record.count_error(f"{operation}: {type(error).__name__}")
            return started, None
        if status == 404 and of in self._shop.deleted:
            return started, None
        if not 200 <= status < 300:
            record.failed += 1
            record.count_error(f"{operation}: {status} {response['error']['code']}")
            return started, None
        is_similar = path.partition("?")[0].endswith("/similar")
        record.requested.append(CompletedRequest(started, time.monotonic() - started, is_similar, response["release"]))
        return started, response

    # Requests --------------------------------------------------------------------------------------------------------

    async def _similar(self) -> None:
        await self._neighbours(self._any())

    async def _filtered(self) -> None:
        if self._source.random() < 0.5:
            await self._neighbours(self._any(), {"price": {"lte": self._source.choice((50, 80, 120, 160))}})
        else:
            await self._neighbours(self._any(), {"category": f"Kind {self._source.randrange(CLUSTERS)}"})

    async def _again(self) -> None:
        """Request neighbours again where something changed, just now or earlier."""
        now = time.monotonic()
        due = [(item_id, requested) for item_id, requested, at in self._touched[-200:] if at < now - GRACE]
        if due:
            _, requested = due[-1] if self._source.random() < 0.5 else self._source.choice(due)
            await self._neighbours(requested)

    async def _deleted(self) -> None:
        """Request an item that was deleted."""
        settled = time.monotonic() - GRACE
        deleted = [item_id for item_id, at in list(self._shop.deleted.items())[-200:] if at < settled]
        if deleted and await self._neighbours(chosen := self._source.choice(deleted)):
            self._record.late_deletes += 1
            self._record.count_error(f"{chosen} has neighbours, although it was deleted")

    async def _words(self) -> None:
        body: dict[str, Any] = {"text": " ".join(self._source.choices(self._shop.words, k=3)), "k": K, "fields": FIELDS}
        if self._source.random() < 0.3:
            body["filter"] = {"price": {"lte": 100}}
        started, response = await self.ask("POST", "/v1/search", body)
        if response is not None:
            self._check(started, response, body.get("filter", {}), None)

    async def _neighbours(self, item_id: str, filter_: dict[str, Any] | None = None) -> bool:
        """Request an item's neighbours and check them; return whether there was a response."""
        query = "".join(f"&fields={name}" for name in FIELDS)
        if filter_:
            query += f"&filter={quote(orjson.dumps(filter_))}"
        started, response = await self.ask("GET", f"/v1/items/{quote(item_id)}/similar?k={K}{query}", of=item_id)
        if response is not None:
            self._check(started, response, filter_ or {}, item_id)
        return response is not None

    def _check(self, started: float, response: Any, filter_: dict[str, Any], requested: str | None) -> None:
        shop, record, items = self._shop, self._record, response["items"]
        marks = {item["domain"] for item in items}
        record.shown[response["release"], frozenset(marks - {LIVE})] += 1
        if len(items) < K:
            record.failed += 1
            record.count_error(f"{len(items)} items instead of {K}")
        if "category" in filter_ and any(item["category"] != filter_["category"] for item in items):
            record.failed += 1
            record.count_error("an item violates the category filter")
        if "price" in filter_ and any(item["price"] > filter_["price"]["lte"] for item in items):
            record.failed += 1
            record.count_error("an item violates the price filter")
        drawn = [item for item in items if item["item_id"] in shop.drawn]
        if requested in shop.drawn and drawn and "category" not in filter_:
            same = (
                sum(item["category"] == shop.rows[requested].category for item in drawn)
                if requested in shop.rows
                else K
            )
            if 2 * same < len(drawn):
                record.foreign += 1
                record.count_error(
                    f"release {response['release']} returned items of other categories than the requested item's"
                )
        for item in items:
            item_id = item["item_id"]
            if item["domain"] == LIVE and item_id in shop.drawn:
                record.foreign += 1
                record.count_error(f"{item_id} is live, but no client put it")
            if shop.deleted.get(item_id, inf) < started - GRACE:
                record.late_deletes += 1
                ago = started - shop.deleted[item_id]
                record.count_error(f"{item_id} was shown by {response['release']}, deleted {ago:.1f} s before")
            elif shop.is_late(item_id, item["price"], started):
                record.late_changes += 1
                record.count_error(f"{item_id} was shown by {response['release']} at {item['price']}, an old price")
            if requested and not filter_ and number_of(item_id) % CLIENTS == self._number and item_id in shop.rows:
                self._near[item_id] = requested

    # Changes ---------------------------------------------------------------------------------------------------------

    async def _create(self) -> None:
        rows = []
        for _ in range(self._source.randint(1, 3)):
            self._made += 1
            rows.append(self._shop.draw(f"new-{self._made * CLIENTS + self._number}", self._source))
        if await self._put(rows, "created"):
            self._shop.made += [(row.item_id, time.monotonic()) for row in rows]

    async def _change(self) -> None:
        """Put another text and another price for an existing item."""
        if (item_id := self._own()) is not None:
            self._shop.drawn.discard(item_id)
            row = self._shop.draw(item_id, self._source)
            if await self._put([row._replace(category=self._shop.rows[item_id].category)], "updated"):
                self._touch(item_id)

    async def _put(self, rows: Sequence[Row], status: str) -> bool:
        notes = [self._shop.pricing(row.item_id, row.price) for row in rows]
        _, response = await self.ask("PUT", "/v1/items", {"items": [row.live() for row in rows]})
        if not self._is_done(response, status, len(rows)):
            return False
        for row, note in zip(rows, notes, strict=True):
            self._shop.rows[row.item_id] = row
            note[0] = time.monotonic()
        return True

    async def _patch(self) -> None:
        if (item_id := self._own()) is not None:
            row = self._shop.rows[item_id]._replace(price=draw_price(self._source))
            note = self._shop.pricing(item_id, row.price)
            _, response = await self.ask("PATCH", "/v1/items", {"items": [{"item_id": item_id, "price": row.price}]})
            if self._is_done(response, "updated", 1):
                self._shop.rows[item_id] = row
                note[0] = time.monotonic()
                self._touch(item_id)

    async def _delete(self) -> None:
        if (item_id := self._own()) is not None:
            self._shop.deleted[item_id] = inf
            del self._shop.rows[item_id]
            if self._source.random() < 0.5:
                _, response = await self.ask("DELETE", f"/v1/items/{quote(item_id)}")
            else:
                _, response = await self.ask("DELETE", "/v1/items", {"item_ids": [item_id]})
            if self._is_done(response, "deleted", 1):
                self._shop.deleted[item_id] = time.monotonic()
                self._touch(item_id)
            self._near.pop(item_id, None)

    def _is_done(self, response: Any, status: str, count: int) -> bool:
        if response is None:
            return False
        for outcome in response["items"]:
            if outcome["status"] != status:
                self._record.failed += 1
                self._record.count_error(f"{outcome['status']} {outcome['code']}, expected {status}")
                return False
        self._record.written[status] += count
        return True

    def _touch(self, item_id: str) -> None:
        if item_id in self._near:
            self._touched.append((item_id, self._near[item_id], time.monotonic()))

    def _any(self) -> str:
        """Return an item that exists, and that every worker must know by now."""
        settled = time.monotonic() - GRACE
        if self._shop.made and self._source.random() < 0.1:
            item_id, at = self._source.choice(self._shop.made)
            if at < settled and item_id in self._shop.rows:
                return item_id
        while (item_id := self._source.choice(self._shop.first)) not in self._shop.rows:
            pass
        return item_id

    def _own(self) -> str | None:
        """Return one of the client's own items, to be changed."""
        there = [item_id for item_id in list(self._near)[-100:] if item_id in self._shop.rows]
        return self._source.choice(there) if there else None
