"""The clients of the soak: what they request and change, and the checks of the responses."""

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
ASKED_A_CONNECTION = 20  # a connection stays with one worker; others are to be met too
PATIENCE = 30.0  # seconds after which a request counts as failed
K = 10
FIELDS = ("price", "category", "domain")
MIX = {  # what clients do, and how often
    "similar": 42,
    "filtered": 20,
    "again": 12,
    "words": 8,
    "gone": 2,
    "create": 3,
    "change": 4,
    "patch": 6,
    "delete": 3,
}


class Connection:
    """HTTP by hand, as a full client would take more of the machine than what it measures."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._left = 0

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and answer; raises OSError, EOFError or TimeoutError where there is none."""
        data = b"" if body is None else orjson.dumps(body)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        try:
            async with asyncio.timeout(PATIENCE):
                if self._streams is None:
                    self._streams = await asyncio.open_connection("127.0.0.1", self._port)
                    self._left = ASKED_A_CONNECTION
                reader, writer = self._streams
                writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
                lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                headers = dict(line.split(b": ", 1) for line in lines[1:] if line)
                answer = orjson.loads(await reader.readexactly(int(headers[b"content-length"])))
        except BaseException:
            self.close()
            raise
        self._left -= 1
        if not self._left or headers.get(b"connection") == b"close":
            self.close()
        return int(lines[0].split()[1]), answer

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


class Asked(NamedTuple):
    """A request that was answered by a release."""

    started: float
    seconds: float
    is_similar: bool
    release: str


@dataclass
class Record:
    """What came of all requests."""

    requests: int = 0
    failed: int = 0
    late_deletes: int = 0
    late_changes: int = 0
    foreign: int = 0  # answers with other categories than the asked item's, or items as nobody put them
    complaints: Counter[str] = field(default_factory=Counter)
    asked: list[Asked] = field(default_factory=list)
    shown: Counter[tuple[str, frozenset[str]]] = field(default_factory=Counter)  # release, and the marks of an answer
    written: Counter[str] = field(default_factory=Counter)

    def complain(self, what: str) -> None:
        self.complaints[what] += 1


class Client:
    """Asks and changes one thing after the other. The items that it changes are its own, so that their order is known.

    `near` has, of own items that came in an answer, what was asked: asking again shows what became of them.
    """

    def __init__(self, number: int, shop: Shop, record: Record, port: int) -> None:
        self._number, self._shop, self._record = number, shop, record
        self._source = random.Random(f"{SEED} {number}")
        self._connection = Connection(port)
        self._near: dict[str, str] = {}
        self._touched: list[tuple[str, str, float]] = []  # items that changed, what was asked to see them, and when
        self._made = 0

    async def run(self, ended: Callable[[], bool]) -> None:
        kinds, weights = list(MIX), list(MIX.values())
        while not ended():
            kind = self._source.choices(kinds, weights)[0]
            await getattr(self, f"_{kind}")()
            await asyncio.sleep(self._source.expovariate(1 / PAUSE))
        self._connection.close()

    async def ask(self, method: str, path: str, body: Any = None, of: str = "") -> tuple[float, Any]:
        """When the request began, and the answer, or None where it failed or item `of` is rightly unknown."""
        record, started = self._record, time.monotonic()
        record.requests += 1
        what = f"{method} {path.partition('?')[0].replace(quote(of), 'ID') if of else path}"
        try:
            status, answer = await self._connection.ask(method, path, body)
        except (OSError, EOFError, TimeoutError) as error:
            record.failed += 1
            record.complain(f"{what}: {type(error).__name__}")
            return started, None
        if status == 404 and of in self._shop.deleted:
            return started, None
        if not 200 <= status < 300:
            record.failed += 1
            record.complain(f"{what}: {status} {answer['error']['code']}")
            return started, None
        is_similar = path.partition("?")[0].endswith("/similar")
        record.asked.append(Asked(started, time.monotonic() - started, is_similar, answer["release"]))
        return started, answer

    # What is asked ---------------------------------------------------------------------------------------------------

    async def _similar(self) -> None:
        await self._neighbours(self._any())

    async def _filtered(self) -> None:
        if self._source.random() < 0.5:
            await self._neighbours(self._any(), {"price": {"lte": self._source.choice((50, 80, 120, 160))}})
        else:
            await self._neighbours(self._any(), {"category": f"Kind {self._source.randrange(CLUSTERS)}"})

    async def _again(self) -> None:
        """Where something changed a moment ago, or a while."""
        now = time.monotonic()
        due = [(item_id, asked) for item_id, asked, at in self._touched[-200:] if at < now - GRACE]
        if due:
            _, asked = due[-1] if self._source.random() < 0.5 else self._source.choice(due)
            await self._neighbours(asked)

    async def _deleted(self) -> None:
        """An item that is not there any more."""
        settled = time.monotonic() - GRACE
        deleted = [item_id for item_id, at in list(self._shop.deleted.items())[-200:] if at < settled]
        if deleted and await self._neighbours(chosen := self._source.choice(deleted)):
            self._record.late_deletes += 1
            self._record.complain(f"{chosen} has neighbours, but was deleted")

    async def _words(self) -> None:
        body: dict[str, Any] = {"text": " ".join(self._source.choices(self._shop.words, k=3)), "k": K, "fields": FIELDS}
        if self._source.random() < 0.3:
            body["filter"] = {"price": {"lte": 100}}
        started, answer = await self.ask("POST", "/v1/search", body)
        if answer is not None:
            self._check(started, answer, body.get("filter", {}), None)

    async def _neighbours(self, item_id: str, filter_: dict[str, Any] | None = None) -> bool:
        """Ask for an item's neighbours and check them; whether there was an answer."""
        wanted = "".join(f"&fields={name}" for name in FIELDS)
        if filter_:
            wanted += f"&filter={quote(orjson.dumps(filter_))}"
        started, answer = await self.ask("GET", f"/v1/items/{quote(item_id)}/similar?k={K}{wanted}", of=item_id)
        if answer is not None:
            self._check(started, answer, filter_ or {}, item_id)
        return answer is not None

    def _check(self, started: float, answer: Any, filter_: dict[str, Any], asked: str | None) -> None:
        shop, record, items = self._shop, self._record, answer["items"]
        marks = {item["domain"] for item in items}
        record.shown[answer["release"], frozenset(marks - {LIVE})] += 1
        if len(items) < K:
            record.failed += 1
            record.complain(f"{len(items)} items where {K} were asked for")
        if "category" in filter_ and any(item["category"] != filter_["category"] for item in items):
            record.failed += 1
            record.complain("an item of another category than the filter's")
        if "price" in filter_ and any(item["price"] > filter_["price"]["lte"] for item in items):
            record.failed += 1
            record.complain("an item of a higher price than the filter's")
        drawn = [item for item in items if item["item_id"] in shop.drawn]
        if asked in shop.drawn and drawn and "category" not in filter_:
            same = sum(item["category"] == shop.rows[asked].category for item in drawn) if asked in shop.rows else K
            if 2 * same < len(drawn):
                record.foreign += 1
                record.complain(f"release {answer['release']} has items of other categories than the asked item's")
        for item in items:
            item_id = item["item_id"]
            if item["domain"] == LIVE and item_id in shop.drawn:
                record.foreign += 1
                record.complain(f"{item_id} is live, but nobody put it")
            if shop.deleted.get(item_id, inf) < started - GRACE:
                record.late_deletes += 1
                ago = started - shop.deleted[item_id]
                record.complain(f"{item_id} was shown by {answer['release']}, deleted {ago:.1f} s before")
            elif shop.is_late(item_id, item["price"], started):
                record.late_changes += 1
                record.complain(f"{item_id} was shown by {answer['release']} at {item['price']}, an old price")
            if asked and not filter_ and number_of(item_id) % CLIENTS == self._number and item_id in shop.rows:
                self._near[item_id] = asked

    # What is changed -------------------------------------------------------------------------------------------------

    async def _create(self) -> None:
        rows = []
        for _ in range(self._source.randint(1, 3)):
            self._made += 1
            rows.append(self._shop.draw(f"new-{self._made * CLIENTS + self._number}", self._source))
        if await self._put(rows, "created"):
            self._shop.made += [(row.item_id, time.monotonic()) for row in rows]

    async def _change(self) -> None:
        """Other words and another price for an item that is there."""
        if (item_id := self._own()) is not None:
            self._shop.drawn.discard(item_id)
            row = self._shop.draw(item_id, self._source)
            if await self._put([row._replace(category=self._shop.rows[item_id].category)], "updated"):
                self._touch(item_id)

    async def _put(self, rows: Sequence[Row], status: str) -> bool:
        notes = [self._shop.pricing(row.item_id, row.price) for row in rows]
        _, answer = await self.ask("PUT", "/v1/items", {"items": [row.live() for row in rows]})
        if not self._is_done(answer, status, len(rows)):
            return False
        for row, note in zip(rows, notes, strict=True):
            self._shop.rows[row.item_id] = row
            note[0] = time.monotonic()
        return True

    async def _patch(self) -> None:
        if (item_id := self._own()) is not None:
            row = self._shop.rows[item_id]._replace(price=draw_price(self._source))
            note = self._shop.pricing(item_id, row.price)
            _, answer = await self.ask("PATCH", "/v1/items", {"items": [{"item_id": item_id, "price": row.price}]})
            if self._is_done(answer, "updated", 1):
                self._shop.rows[item_id] = row
                note[0] = time.monotonic()
                self._touch(item_id)

    async def _delete(self) -> None:
        if (item_id := self._own()) is not None:
            self._shop.deleted[item_id] = inf
            del self._shop.rows[item_id]
            if self._source.random() < 0.5:
                _, answer = await self.ask("DELETE", f"/v1/items/{quote(item_id)}")
            else:
                _, answer = await self.ask("DELETE", "/v1/items", {"item_ids": [item_id]})
            if self._is_done(answer, "deleted", 1):
                self._shop.deleted[item_id] = time.monotonic()
                self._touch(item_id)
            self._near.pop(item_id, None)

    def _is_done(self, answer: Any, status: str, count: int) -> bool:
        if answer is None:
            return False
        for outcome in answer["items"]:
            if outcome["status"] != status:
                self._record.failed += 1
                self._record.complain(f"{outcome['status']} {outcome['code']}, expected {status}")
                return False
        self._record.written[status] += count
        return True

    def _touch(self, item_id: str) -> None:
        if item_id in self._near:
            self._touched.append((item_id, self._near[item_id], time.monotonic()))

    def _any(self) -> str:
        """An item that is there, for as long as every worker must know."""
        settled = time.monotonic() - GRACE
        if self._shop.made and self._source.random() < 0.1:
            item_id, at = self._source.choice(self._shop.made)
            if at < settled and item_id in self._shop.rows:
                return item_id
        while (item_id := self._source.choice(self._shop.first)) not in self._shop.rows:
            pass
        return item_id

    def _own(self) -> str | None:
        """One of the client's own items, to be changed."""
        there = [item_id for item_id in list(self._near)[-100:] if item_id in self._shop.rows]
        return self._source.choice(there) if there else None
