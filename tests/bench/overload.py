"""Overload: mixed traffic at twice the rate that the service can sustain, for five minutes, over 100,000 items.

The service has one worker on one core; the client is another process on the other core. First it measures the
sustainable rate: the responses a second over a few connections, each with one request at a time. Then requests are sent
at random times, as from many users, at twice that rate, whether or not earlier ones have responses. Latency counts from
the time at which a request should have been sent.

- `accepted_p99_ms`: latency of responses with status 200. `shed_p99_ms`: latency of a 503. `shed`: share of 503s.
- `lost`: requests without a response, responses of any other status, and events that were acknowledged but are not in
  the event log afterwards.
- `rss_growth`: memory at the end relative to that after the first 30 seconds.
- `similar_over_minimal`: the sustainable rate of similar items alone, relative to that of the minimal app of the `http`
  benchmark on the same store. `accepted_p99_over_minimal`: the p99 under overload relative to the p99 of that app after
  twenty seconds at twice its own rate, without load shedding.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from http_service import ready
from latency import ITEMS, USERS, draw
from report import report
from rich.console import Console
from rich.progress import Progress
from soak_shop import keep_vectors

from serve.cli import bars
from serve.core.settings import Settings
from serve.jobs.build import build, ingest_feed
from serve.jobs.import_events import import_events
from serve.jobs.train import train, train_scorer
from serve.security.api_keys import disable_keys
from serve.storage.event_log import open_event_log

SEED = 0
SECONDS = 300.0
FEW = 4  # connections that measure the sustainable rate
PROBE_SECONDS = 20.0
CONNECTIONS = 400
PORT = 18_451
KEYWORDS = [f"thing {number}" for number in range(2000)]
Request = tuple[str, bytes]  # its kind, and its bytes on the wire


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--keep", type=Path, help="folder that keeps the built shop for the next run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shop = given.keep or Path(folder)
        settings = Settings(store=shop / "store", towers={"epochs": 1}, scorer={"epochs": 1})  # type: ignore[arg-type]
        if not (shop / "built").exists():
            make(shop, settings)
        figures = measure(settings, given.seconds)
    report("overload", figures, SEED, ("fastapi", "uvicorn", "faiss-cpu", "torch"))


def make(shop: Path, settings: Settings) -> None:
    """Create the shop and build its store, with towers and scorer."""
    shop.mkdir(exist_ok=True)
    with bars(quiet=False) as progress:
        draw(shop)
        ingest_feed(settings, shop / "items.jsonl", progress=progress)
        keep_vectors(settings.store)
        build(settings, progress=progress)
        import_events(settings, shop / "events.jsonl", progress=progress)
        train(settings, progress)
        build(settings, progress=progress)
        train_scorer(settings, progress)
        build(settings, progress=progress, force=True)
        disable_keys(settings.store)
    (shop / "built").touch()


def measure(settings: Settings, seconds: float) -> dict[str, Any]:
    """Measure service and minimal app; return the figures."""
    figures: dict[str, Any] = {}
    with Service(
        settings, [sys.executable, "-c", "from serve.cli import main; main()", "serve", "--port", str(PORT)]
    ) as own:
        similar = apart(closed, similar_only, PROBE_SECONDS)
        rate = apart(closed, mixed, PROBE_SECONDS)
        found = apart(open_loop, mixed, 2 * rate, seconds, own.pid)
    stored = set()
    events = open_event_log(settings)
    for _, batch in events.batches():
        stored.update(batch.column("event_id").to_pylist())
    events.close()
    missing = len([event for event in found.acknowledged if event not in stored])
    with Service(
        settings, [sys.executable, "-m", "uvicorn", "minimal_app:minimal", "--port", str(PORT), "--log-level", "error"]
    ) as other:
        minimal = apart(closed, similar_only, PROBE_SECONDS)
        swamped = apart(open_loop, similar_only, 2 * minimal, 20.0, other.pid)
    accepted, shed = np.array(found.took["200"]), np.array(found.took.get("503", [0.0]))
    figures |= {
        "sustainable_per_s": round(rate),
        "offered_per_s": round(2 * rate),
        "seconds": seconds,
        "requests": found.sent,
        "accepted_per_s": round(len(accepted) / seconds),
        "accepted_p50_ms": round(float(np.quantile(accepted, 0.5)) * 1000, 1),
        "accepted_p99_ms": round(float(np.quantile(accepted, 0.99)) * 1000, 1),
        "accepted_p999_ms": round(float(np.quantile(accepted, 0.999)) * 1000, 1),
        "shed": round(len(found.took.get("503", [])) / found.sent, 4),
        "shed_p50_ms": round(float(np.quantile(shed, 0.5)) * 1000, 1),
        "shed_p99_ms": round(float(np.quantile(shed, 0.99)) * 1000, 1),
        "lost": found.sent - sum(len(found.took.get(status, [])) for status in ("200", "503")) + missing,
        "acknowledged_events": len(found.acknowledged),
        "rss_growth": round(found.memory[-1] / found.memory[0], 4),
        "similar_per_s": round(similar),
        "similar_over_minimal": round(similar / minimal, 3),
        "minimal_p99_ms": round(float(np.quantile(np.concatenate(list(swamped.took.values())), 0.99)) * 1000, 1),
    }
    figures["accepted_p99_over_minimal"] = round(figures["accepted_p99_ms"] / figures["minimal_p99_ms"], 4)
    for kind, took in sorted(found.by_kind.items()):
        figures[f"{kind}_p99_ms"] = round(float(np.quantile(took, 0.99)) * 1000, 1)
    if other_statuses := {status: len(took) for status, took in found.took.items() if status not in ("200", "503")}:
        print(other_statuses, file=sys.stderr)
    return figures


class Service:
    """A server on the first core, ready for requests."""

    def __init__(self, settings: Settings, command: list[str]) -> None:
        environment = os.environ | {"VETRINA_STORE": str(settings.store), "VETRINA_THREADS": "1"}
        here = Path(__file__).parent
        self._process = subprocess.Popen(["taskset", "-c", "0", *command], cwd=here, env=environment)
        self.pid = self._process.pid

    def __enter__(self) -> "Service":
        asyncio.run(ready(PORT, "sku-0", "text"))
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


def apart(task: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task in a separate process on the last core; return its result."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, os.sched_setaffinity, (0, {(os.cpu_count() or 1) - 1})) as pool:
        return pool.apply(task, arguments)


def similar_only(source: random.Random, number: int) -> Request:
    """Return a request for similar items."""
    path = f"/v1/items/sku-{source.randrange(ITEMS)}/similar?k=10&space=text"
    return "similar", f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def mixed(source: random.Random, number: int) -> Request:
    """Return a request of a shop's pages: most are recommendations, then similar items, searches and user events."""
    which, user = source.random(), f"u{source.randrange(USERS)}"
    if which < 0.4:
        return "recommend", post("/v1/recommend", {"user_id": user, "k": 10})
    if which < 0.65:
        return similar_only(source, number)
    if which < 0.85:
        return "search", post("/v1/search", {"text": source.choice(KEYWORDS), "k": 10})
    item = f"sku-{source.randrange(ITEMS)}"
    if which < 0.97:
        event = {"event_id": f"overload-{os.getpid()}-{number}", "user_id": user, "item_id": item, "type": "click"}
        return "events", post("/v1/events", {"events": [event]})
    return "patch", post("/v1/items", {"items": [{"item_id": item, "price": source.randrange(1, 100)}]}, "PATCH")


def post(path: str, body: dict[str, Any], method: str = "POST") -> bytes:
    data = orjson.dumps(body)
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


@dataclass
class Outcomes:
    """Outcomes of requests: seconds by status and, if accepted, by kind; acknowledged events; memory of the server."""

    sent: int = 0
    took: dict[str, list[float]] = field(default_factory=dict)
    by_kind: dict[str, list[float]] = field(default_factory=dict)
    acknowledged: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


class Connection:
    """A kept-alive connection; opened again if the server closed it."""

    def __init__(self) -> None:
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> tuple[str, bytes]:
        """Send a request; return status and body."""
        for attempt in (0, 1):
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection("127.0.0.1", PORT)
            assert self._reader is not None
            try:
                self._writer.write(request)
                head = await self._reader.readuntil(b"\r\n\r\n")
                break
            except (ConnectionError, asyncio.IncompleteReadError):  # the server may have closed it while it was idle
                self._writer = None
                if attempt:
                    raise
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return head[9:12].decode(), await self._reader.readexactly(int(length.split(b":")[1]))  # type: ignore[union-attr]


def closed(make_request: Callable[[random.Random, int], Request], seconds: float) -> float:
    """Return responses a second over FEW connections, each with one request at a time."""

    async def run() -> float:
        source, answered, end = random.Random(SEED), 0, time.perf_counter() + seconds
        begun = time.perf_counter() + seconds / 4  # after a warm-up

        async def one() -> None:
            nonlocal answered
            connection = Connection()
            while time.perf_counter() < end:
                status, _ = await connection.ask(make_request(source, random.getrandbits(60))[1])
                if status == "200" and time.perf_counter() > begun:
                    answered += 1

        await asyncio.gather(*(one() for _ in range(FEW)))
        return answered / (seconds * 3 / 4)

    return asyncio.run(run())


def open_loop(
    make_request: Callable[[random.Random, int], Request], rate: float, seconds: float, server: int
) -> Outcomes:
    """Send requests at random times, `rate` a second, regardless of the responses."""
    found, source = Outcomes(), random.Random(SEED + 1)

    async def run() -> None:
        idle: list[Connection] = [Connection() for _ in range(CONNECTIONS)]
        free = asyncio.Semaphore(CONNECTIONS)

        async def send(kind: str, request: bytes, number: int, due: float) -> None:
            async with free:
                connection = idle.pop()
                try:
                    status, body = await asyncio.wait_for(connection.ask(request), 60)
                except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                    status, body, connection = type(error).__name__, b"", Connection()
                idle.append(connection)
            took = time.perf_counter() - due
            found.took.setdefault(status, []).append(took)
            if status == "200":
                found.by_kind.setdefault(kind, []).append(took)
                if kind == "events" and orjson.loads(body)["events"][0]["status"] == "stored":
                    found.acknowledged.append(f"overload-{os.getpid()}-{number}")

        tasks: set[asyncio.Task[None]] = set()
        started = time.perf_counter()
        due, reported = started, started
        with Progress(console=Console(stderr=True)) as progress:
            bar = progress.add_task("overload", total=seconds)
            while due < started + seconds:
                due += source.expovariate(rate)
                kind, request = make_request(source, found.sent)
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                task = asyncio.create_task(send(kind, request, found.sent, due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                found.sent += 1
                if time.perf_counter() - reported > 1:
                    reported = time.perf_counter()
                    progress.update(bar, completed=reported - started)
                    if reported - started > min(30, seconds / 4):
                        found.memory.append(resident(server))
            await asyncio.gather(*tasks)

    asyncio.run(run())
    tenth = max(1, len(found.memory) // 10)
    found.memory = [float(np.mean(found.memory[:tenth])), float(np.mean(found.memory[-tenth:]))]
    return found


def resident(pid: int) -> float:
    """Return the bytes of a process's own memory, without mapped files."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return float(line.split()[1]) * 1024
    return 0.0


if __name__ == "__main__":
    main()
