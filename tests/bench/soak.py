"""Soak: what a shop's visitors see while the shop changes under them, and what memory that takes.

A drawn catalogue of text items is served by `vetrina serve` with three workers. Its vectors are drawn as well (clusters
of low intrinsic dimension, put into the vector store under the content keys of the items' texts), so that a build finds
all of them known. Eight clients ask for similar items, search by words, and put, patch and delete items; meanwhile the
release is swapped, by real builds, which fold the live changes in, and by activating the one before.

- `failed`: answers other than 2xx (but 404 is right for an item that was deleted), lost connections, refused changes,
  answers that do not keep their filter; `complaints` says which.
- `mixed`: answers of more than one release. Each feed is marked by its generation in the `domain` of all items, which
  no encoder reads, and has an order of its own, so that an item has another number in every release. An answer must
  show the generation of the release that it names; and as every cluster is a category, an index that is not the
  catalogue's would answer with other categories than the asked item's.
- `late_deletes`, `late_changes`: items in an answer that were deleted, or whose price was replaced, acknowledged more
  than a second before the request began, whichever worker took it; such neighbours are asked for on purpose.
- `rss_growth`: proportional set size (PSS: what processes share counts once) of all workers, the last 5 s over that
  of the last 5 s of warm-up.
- `swap_peak_over_index`: what the workers map of an index after the warm-up (PSS), plus the most by which their memory
  of all kinds is, around a swap, above that of the 5 s before, over the bytes of the index's files.
"""

import argparse
import asyncio
import csv
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import orjson
from report import report
from rich.console import Console
from rich.progress import Progress

from embed.catalogue import Catalogue
from embed.compose import compose_texts
from embed.encoders.bundled import BundledTextEncoder
from embed.vector_store import VectorStore, as_keys, content_key
from serve.core.settings import Settings
from serve.jobs.build import build, ingest_feed
from serve.release.repository import current_name, open_current, release_names, releases_folder

SEED = 0
ITEMS = 40_000  # of two rows of 384 values each: 123 MB of vectors
SECONDS = 60.0
WORKERS = 3
CLIENTS = 8
PAUSE = 0.1  # seconds between the requests of a client, on average
ASKED_A_CONNECTION = 20  # a connection stays with one worker; others are to be met too
PATIENCE = 30.0  # seconds after which a request counts as failed
CLUSTERS = 300
SPREAD = 8  # dimensions of a cluster
BUILDS = 2
ACTIVATIONS = (0.36, 0.5, 0.7)  # when, as shares of the time
WARM_UP = 1 / 3  # of the time, until what is kept for speed is there
GRACE = 1.0  # seconds until every worker has to know a change
BEFORE, AFTER = 1.0, 4.0  # seconds around a swap
EDGE = 5.0  # seconds at the start and the end over which memory is averaged
K = 10
LIVE = "live"  # the domain of items that a client put
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

CONSOLE = Console(stderr=True, highlight=False)
VETRINA = str(Path(sys.executable).with_name("vetrina"))


def main() -> None:
    arguments = argparse.ArgumentParser(description="see the top of this file")
    arguments.add_argument("--seconds", type=float, default=SECONDS)
    arguments.add_argument("--items", type=int, default=ITEMS)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder).resolve(), given.items, given.seconds)
        soak.prepare()
        figures = soak.run()
    report("soak", figures, SEED, packages=("fastapi", "uvicorn", "faiss-cpu", "onnxruntime"))


class Row(NamedTuple):
    """An item as the shop has it; replaced whole, so that a list of rows is one state of the shop."""

    item_id: str
    title: str
    description: str
    category: str
    price: float

    def live(self) -> dict[str, Any]:
        """The item as a client puts it."""
        return {**self._asdict(), "currency": "EUR", "domain": LIVE}


class Shop:
    """What the shop knows itself: its items, what of them was acknowledged when, and the clock by which that is."""

    def __init__(self, items: int) -> None:
        self.source = random.Random(SEED)
        self.words = ["".join(self.source.choices("aeioulnrstmdpbk", k=self.source.randint(3, 9))) for _ in range(3000)]
        self.rows = {row.item_id: row for row in (self.draw(f"sku-{number}", self.source) for number in range(items))}
        self.first = list(self.rows)
        self.drawn = set(self.first)  # items whose vectors are the drawn ones
        self.made: list[tuple[str, float]] = []  # items that clients added, and when
        self.deleted: dict[str, float] = {}  # when; infinite until it is acknowledged
        self.prices: dict[str, list[list[float]]] = {}  # by item that changed: when (as above), and the price

    def draw(self, item_id: str, source: random.Random) -> Row:
        """A new item, or new words for one."""
        title = " ".join(source.choices(self.words, k=4)).capitalize()
        description = " ".join(source.choices(self.words, k=14)).capitalize() + "."
        return Row(item_id, title, description, f"Kind {source.randrange(CLUSTERS)}", draw_price(source))

    def write_feed(self, path: Path, generation: int) -> None:
        """The shop as it is now, in the order and with the mark of a generation."""
        now = time.time()
        rows = list(self.rows.values())
        first = generation * 7919 % len(rows)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*Row._fields, "currency", "domain"])
            writer.writerows((*row, "EUR", mark(generation)) for row in rows[first:] + rows[:first])
        os.utime(path, (now, now))  # what changed while it was written is not in it

    def pricing(self, item_id: str, price: float) -> list[float]:
        """Note that an item is about to get a price; the note's first value is to be set when it has it."""
        if item_id not in self.prices:
            self.prices[item_id] = [[-inf, self.rows[item_id].price]] if item_id in self.rows else []
        self.prices[item_id].append([inf, price])
        return self.prices[item_id][-1]

    def is_late(self, item_id: str, price: float, started: float) -> bool:
        """Whether a request begun at `started` must not show this price any more."""
        known = self.prices.get(item_id, [])
        settled = max((place for place, (at, _) in enumerate(known) if at < started - GRACE), default=0)
        return bool(known) and price not in [each for _, each in known[settled:]]


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


class Memory(NamedTuple):
    """What the workers hold together, in bytes: all (PSS: what they share counts once), and what of it is anonymous."""

    at: float
    all: int
    anonymous: int

    @classmethod
    def of(cls, pids: Sequence[int]) -> "Memory":
        at, sums = time.monotonic(), Counter[bytes]()
        for pid in pids:
            with suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines()[1:]:
                    name, size = line.split()[:2]
                    sums[name] += int(size) << 10
        return cls(at, sums[b"Pss:"], sums[b"Pss_Anon:"])


def mapped(pids: Sequence[int], folder: Path) -> int:
    """The bytes that processes together map of the indexes in a folder (PSS); it takes long to tell."""
    total = 0
    for pid in pids:
        inside = False
        for line in Path(f"/proc/{pid}/smaps").read_bytes().splitlines():
            if line[0] in b"0123456789abcdef":  # a mapping; its figures have names in capitals
                inside = bytes(folder) in line and b"/spaces/" in line
            elif inside and line.startswith(b"Pss:"):
                total += int(line.split()[1]) << 10
    return total


class Soak:
    """A shop, its store and its service, for one run."""

    def __init__(self, folder: Path, items: int, seconds: float) -> None:
        self._feed, self._log = folder / "feed.csv", folder / "log.txt"
        self._settings = Settings(store=folder / "store")
        self._store = self._settings.store
        self._seconds = seconds
        self._shop = Shop(items)
        self._record = Record()
        self._generations: dict[str, int] = {}  # by release
        self._first: str | None = None  # the release that answers when it begins
        self._swaps: list[tuple[float, str]] = []
        self._memory: list[Memory] = []
        self._mapped = 0
        self._workers: set[int] = set()  # the pids of all that there ever were
        self._builds = self._activations = 0
        self._started = self._last = 0.0

    def prepare(self) -> None:
        """Two releases, so that there is one to go back to."""
        with CONSOLE.status("drawing a shop and building it: the first time, the index is chosen ..."):
            self._shop.write_feed(self._feed, 0)
            ingest_feed(self._settings, self._feed)
            keep_vectors(self._store)
            self._generations[build(self._settings).manifest.release] = 0
            asyncio.run(self._build())
            self._builds = 0

    def run(self) -> dict[str, Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [VETRINA, "serve", "--store", str(self._store), "--workers", str(WORKERS), "--port", str(port)]
        with self._log.open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            asyncio.run(self._run(server, port))
            cpu = sorted(cpu_seconds(pid) for pid in children(server.pid))
        finally:
            server.terminate()
            server.wait()
        for line in self._log.read_text("utf-8", "replace").splitlines():
            if not line.startswith("INFO:") or " answers now" in line:
                CONSOLE.print(f"the service says: {line}", markup=False)
        return self._figures(cpu)

    async def _run(self, server: subprocess.Popen[bytes], port: int) -> None:
        with CONSOLE.status("the service starts ..."):
            deadline = time.monotonic() + 120
            while self._log.read_text("utf-8", "replace").count("startup complete") < WORKERS:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the service did not start:\n{self._log.read_text('utf-8', 'replace')}")
                await asyncio.sleep(0.1)
        self._started = time.monotonic()
        self._last = self._started + self._seconds
        over = asyncio.Event()
        aside = [asyncio.create_task(each) for each in (self._watch_memory(server.pid, over), self._watch_swaps(over))]
        clients = [Client(number, self._shop, self._record, port) for number in range(CLIENTS)]
        swapping = [asyncio.create_task(each) for each in (self._build_often(), self._activate_often(port))]

        def ended() -> bool:
            return all(task.done() for task in swapping) and time.monotonic() > self._last

        await asyncio.gather(*(client.run(ended) for client in clients), *swapping)
        over.set()
        await asyncio.gather(*aside)

    async def _build_often(self) -> None:
        for _ in range(BUILDS):
            await self._build()
        self._last = max(self._last, time.monotonic() + AFTER + 1)

    async def _build(self) -> None:
        generation = len(self._generations)
        await asyncio.to_thread(self._shop.write_feed, self._feed, generation)
        command = [VETRINA, "build", str(self._feed), "--store", str(self._store), "--json"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
        told, error_response = await process.communicate()
        if process.returncode:
            raise SystemExit(f"the build failed: {error_response.decode()}")
        done = orjson.loads(told)
        self._generations[done["release"]] = generation
        self._builds += 1
        encoded = sum(space["encoded"] for space in done["encoded"])
        CONSOLE.print(f"built {done['release']}: {done['items']} items, {encoded} encoded, {done['seconds']}")

    async def _activate_often(self, port: int) -> None:
        for share in ACTIVATIONS:
            await asyncio.sleep(max(0.0, self._started + share * self._seconds - time.monotonic()))
            client = Client(CLIENTS, self._shop, self._record, port)  # the service closes a connection that is idle
            newest, before = release_names(self._store)[:2]
            chosen = before if current_name(self._store) == newest else newest
            _, answer = await client.ask("POST", f"/v1/releases/{chosen}/activate")
            if answer is not None:
                self._activations += 1

    async def _watch_swaps(self, over: asyncio.Event) -> None:
        name = self._first = current_name(self._store)
        with Progress(console=CONSOLE) as progress:
            task = progress.add_task("soak", total=self._seconds)
            while not over.is_set():
                await asyncio.sleep(0.05)
                now, found = time.monotonic(), current_name(self._store)
                progress.update(task, completed=min(self._seconds, now - self._started))
                if found is not None and found != name:
                    self._swaps.append((now, found))
                    progress.print(
                        f"{now - self._started:5.1f} s: release {found} is current; {self._record.requests} requests, "
                        f"{self._record.failed} failed"
                    )
                    name = found

    async def _watch_memory(self, pid: int, over: asyncio.Event) -> None:
        while not over.is_set():
            pids = children(pid)
            self._workers.update(pids)
            self._memory.append(await asyncio.to_thread(Memory.of, pids))
            if not self._mapped and time.monotonic() > self._started + WARM_UP * self._seconds:
                self._mapped = mapped(pids, releases_folder(self._store))
            await asyncio.sleep(0.05)

    def _is_near(self, at: float) -> bool:
        """Whether a release is swapped about now."""
        return any(swap - BEFORE <= at <= swap + AFTER for swap, _ in self._swaps)

    def _figures(self, cpu: Sequence[float]) -> dict[str, Any]:
        record, end = self._record, self._memory[-1].at
        release = open_current(self._store)
        index = sum(file.bytes for name, file in release.manifest.files.items() if name.startswith("spaces/"))
        warm = self._started + WARM_UP * self._seconds
        first = [each for each in self._memory if warm - EDGE < each.at <= warm]
        last = [each for each in self._memory if each.at > end - EDGE]
        base = mean(first, "anonymous")
        extra = max(max(each.all for each in self._around(at)) - self._before(at) for at, _ in self._swaps)
        middle = [each for each in self._memory if abs(each.at - (warm + end) / 2) < EDGE / 2]
        mixed = record.foreign + sum(
            count for (name, marks), count in record.shown.items() if marks and marks != {mark(self._generations[name])}
        )
        figures = {
            "items": len(self._shop.first),
            "index_mb": round(index / 1e6, 1),
            "workers": WORKERS,
            "seconds": round(end - self._started, 1),
            "requests": record.requests,
            "failed": record.failed,
            "mixed": mixed,
            "late_deletes": record.late_deletes,
            "late_changes": record.late_changes,
            "swaps": len(self._swaps),
            "builds": self._builds,
            "activations": self._activations,
            "slowest_swap_s": round(self._slowest_swap(), 2),
            "rss_growth": round(mean(last, "all") / mean(first, "all"), 3),
            "rss_start_mb": round(mean(first, "all") / 1e6, 1),
            "rss_middle_mb": round(mean(middle, "all") / 1e6, 1),
            "rss_end_mb": round(mean(last, "all") / 1e6, 1),
            "anonymous_growth_mb": round((mean(last, "anonymous") - base) / 1e6, 1),
            "mapped_mb": round(self._mapped / 1e6, 1),
            "swap_extra_mb": round(extra / 1e6, 1),
            "swap_peak_over_index": round((self._mapped + extra) / index, 3),
            "created": record.written["created"],
            "changed": record.written["updated"],
            "deleted": record.written["deleted"],
            "worker_restarts": len(self._workers) - WORKERS,
            "worker_cpu_s": ", ".join(f"{each:.1f}" for each in cpu),
            "complaints": "; ".join(f"{count} × {what}" for what, count in record.complaints.most_common(8)),
        }
        for name, near in (("similar", False), ("swap_similar", True)):
            times = [
                one.seconds * 1000 for one in record.asked if one.is_similar and self._is_near(one.started) == near
            ]
            for share in (50, 99):
                figures[f"{name}_p{share}_ms"] = round(float(np.percentile(times, share)), 2) if times else None
        return figures

    def _around(self, swap: float) -> list[Memory]:
        return [each for each in self._memory if swap - BEFORE <= each.at <= swap + AFTER]

    def _before(self, swap: float) -> float:
        """The memory before a swap."""
        return mean([each for each in self._memory if swap - BEFORE - EDGE <= each.at < swap - BEFORE], "all")

    def _slowest_swap(self) -> float:
        """Seconds from when a release was current to the beginning of the last request that the one before answered."""
        slowest, before = 0.0, self._first
        ends = [at for at, _ in self._swaps[1:]] + [inf]
        for (at, name), end in zip(self._swaps, ends, strict=True):
            late = (each.started - at for each in self._record.asked if each.release == before)
            slowest = max(slowest, *(each for each in late if each < end - at - 1))
            before = name
        return slowest


def keep_vectors(store: Path) -> None:
    """Draw a vector for each text of the catalogue, near those of its category, and keep it as if it was encoded."""
    generator = np.random.default_rng(SEED)
    dim = BundledTextEncoder.dim
    vectors = VectorStore(store, "text", BundledTextEncoder.fingerprint, dim)
    centres = generator.standard_normal((CLUSTERS, dim)) / dim**0.5
    axes = generator.standard_normal((CLUSTERS, SPREAD, dim)) / dim**0.5
    for batch in Catalogue.current(store).batches():
        drawn: dict[bytes, Any] = {}
        for item in batch:
            cluster = int((item.category or "").rpartition(" ")[2])
            place = 0.35 * generator.standard_normal(SPREAD)
            for _, text in compose_texts(item):
                near = place + 0.1 * generator.standard_normal(SPREAD)
                noise = 0.2 * generator.standard_normal(dim) / dim**0.5
                drawn[content_key(text)] = centres[cluster] + near @ axes[cluster] + noise
        known = vectors.known(as_keys(drawn))
        keys = [key for key, has in zip(drawn, known, strict=True) if not has]
        rows = np.stack([drawn[key] for key in keys])
        vectors.append(keys, (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


def mark(generation: int) -> str:
    return f"generation-{generation}"


def number_of(item_id: str) -> int:
    return int(item_id.rpartition("-")[2])


def draw_price(source: random.Random) -> float:
    return round(source.uniform(1, 200), 2)


def children(pid: int) -> list[int]:
    """The worker processes of a service; not the tracker of shared memory that Python starts beside them."""
    found = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return [each for each in found if b"spawn_main" in command_line(each)]


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # it has ended
        return b""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mean(samples: Sequence[Memory], name: str) -> float:
    return float(np.mean([getattr(each, name) for each in samples]))


if __name__ == "__main__":
    main()
