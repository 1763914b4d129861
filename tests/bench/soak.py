"""Soak test: responses and memory of the service while items change and releases are swapped.

`vetrina serve` serves a random catalogue of text items with three workers. Its vectors are random as well (clusters of
low intrinsic dimension, stored under the content keys of the items' texts), so that a build does not encode anything.
Eight clients request similar items, search by text, and put, patch and delete items. Meanwhile releases are swapped by
real builds, which include the live changes, and by activating the previous release.

- `failed`: responses other than 2xx (except 404 for a deleted item), lost connections, rejected changes, and responses
  that violate their filter; `complaints` lists the reasons.
- `mixed`: responses that mix releases. Each feed marks its generation in the `domain` of all items, which no encoder
  reads, and has its own order, so that an item has another index in every release. A response must show the generation
  of the release that it names. Every cluster is a category, so that an index that does not belong to the catalogue
  would return other categories than that of the requested item.
- `late_deletes`, `late_changes`: items in a response that were deleted, or whose price was replaced, acknowledged more
  than a second before the request began, by whichever worker; clients request such neighbours on purpose.
- `rss_growth`: proportional set size (PSS, which counts shared memory once) of all workers in the last 5 s, relative to
  that of the last 5 s of warm-up.
- `swap_peak_over_index`: the bytes of an index that the workers map after warm-up (PSS), plus the largest increase of
  their total memory around a swap over the 5 s before it, relative to the bytes of the index's files.
"""

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from process_memory import Memory, children, cpu_seconds, mapped, mean
from report import report
from rich.console import Console
from rich.progress import Progress
from soak_client import CLIENTS, Client, Record
from soak_shop import SEED, Shop, keep_vectors, mark

from serve.core.settings import Settings
from serve.jobs.build import build, ingest_feed
from serve.release.repository import current_name, open_current, release_names, releases_folder
from serve.security.api_keys import disable_keys

ITEMS = 40_000  # of two rows of 384 values each: 123 MB of vectors
SECONDS = 60.0
WORKERS = 3
BUILDS = 2
ACTIVATIONS = (0.36, 0.5, 0.7)  # times, as shares of the run
WARM_UP = 1 / 3  # share of the run, until caches are filled
BEFORE, AFTER = 1.0, 4.0  # seconds around a swap
EDGE = 5.0  # seconds at the start and the end over which memory is averaged
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
        self._first: str | None = None  # the active release at the start
        self._swaps: list[tuple[float, str]] = []
        self._memory: list[Memory] = []
        self._mapped = 0
        self._workers: set[int] = set()  # the pids of all workers so far
        self._builds = self._activations = 0
        self._started = self._last = 0.0

    def prepare(self) -> None:
        """Build two releases, so that there is a previous one."""
        with CONSOLE.status("creating a shop and building it; the first build chooses the index ..."):
            self._shop.write_feed(self._feed, 0)
            ingest_feed(self._settings, self._feed)
            keep_vectors(self._store)
            disable_keys(self._store)
            self._generations[build(self._settings).manifest.release] = 0
            asyncio.run(self._build())
            self._builds = 0

    def run(self) -> dict[str, Any]:
        """Run service and clients; return the figures."""
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
            if '"level":"info"' not in line or " is active" in line:
                CONSOLE.print(f"service: {line}", markup=False)
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
        watchers = [
            asyncio.create_task(each) for each in (self._watch_memory(server.pid, over), self._watch_swaps(over))
        ]
        clients = [Client(number, self._shop, self._record, port) for number in range(CLIENTS)]
        swapping = [asyncio.create_task(each) for each in (self._build_often(), self._activate_often(port))]

        def ended() -> bool:
            return all(task.done() for task in swapping) and time.monotonic() > self._last

        await asyncio.gather(*(client.run(ended) for client in clients), *swapping)
        over.set()
        await asyncio.gather(*watchers)

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
        output, errors = await process.communicate()
        if process.returncode:
            raise SystemExit(f"the build failed: {errors.decode()}")
        done = orjson.loads(output)
        self._generations[done["release"]] = generation
        self._builds += 1
        encoded = sum(space["encoded"] for space in done["encoded"])
        CONSOLE.print(f"built {done['release']}: {done['items']} items, {encoded} encoded, {done['seconds']}")

    async def _activate_often(self, port: int) -> None:
        for share in ACTIVATIONS:
            await asyncio.sleep(max(0.0, self._started + share * self._seconds - time.monotonic()))
            # A new client, because the service closes idle connections.
            client = Client(CLIENTS, self._shop, self._record, port)
            newest, before = release_names(self._store)[:2]
            chosen = before if current_name(self._store) == newest else newest
            _, response = await client.ask("POST", f"/v1/releases/{chosen}/activate")
            if response is not None:
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
        """Return whether a release is swapped around that time."""
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
            "complaints": "; ".join(f"{count} × {reason}" for reason, count in record.errors.most_common(8)),
        }
        for name, near in (("similar", False), ("swap_similar", True)):
            times = [
                each.seconds * 1000
                for each in record.requested
                if each.is_similar and self._is_near(each.started) == near
            ]
            for share in (50, 99):
                figures[f"{name}_p{share}_ms"] = round(float(np.percentile(times, share)), 2) if times else None
        return figures

    def _around(self, swap: float) -> list[Memory]:
        return [each for each in self._memory if swap - BEFORE <= each.at <= swap + AFTER]

    def _before(self, swap: float) -> float:
        """Return the memory before a swap."""
        return mean([each for each in self._memory if swap - BEFORE - EDGE <= each.at < swap - BEFORE], "all")

    def _slowest_swap(self) -> float:
        """Return the longest time from a swap to the start of the last request that the previous release served."""
        slowest, before = 0.0, self._first
        ends = [at for at, _ in self._swaps[1:]] + [inf]
        for (at, name), end in zip(self._swaps, ends, strict=True):
            late = (each.started - at for each in self._record.requested if each.release == before)
            slowest = max(slowest, *(each for each in late if each < end - at - 1))
            before = name
        return slowest


if __name__ == "__main__":
    main()
