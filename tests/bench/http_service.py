"""Requests a second of `/v1/items/{id}/similar`, compared with a minimal FastAPI app that only calls FAISS.

Both return the same JSON, and both run in uvicorn with one worker on one core, over the same demo shop of 720 items;
the client is on the other core and keeps 8 connections busy. A small index is the hardest case, because the search does
not hide the overhead of the service. `similar` uses one space, where one search gives the JSON. `fused` uses both
spaces: the minimal app adds the cosines of the hits of both searches, while Vetrina scores every item in every space
and standardizes the scores. Both are measured in turns, five rounds each; the ratio is that of the medians. Results go
to `http.json`; a script named http.py would shadow the standard library's http for all other scripts here.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import httpx
from report import report
from rich.console import Console
from rich.progress import track

from serve.core.settings import Settings
from serve.demo.shop import make_shop
from serve.jobs.build import build
from serve.release.repository import open_current
from serve.security.api_keys import disable_keys

PORT = 18_431
CONNECTIONS = 8
REQUESTS = 2000
ROUNDS = 5
K = 10


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder)
        make_shop(shop, items=720, users=10)
        settings = Settings(store=shop / "store")
        build(settings, shop / "catalog.csv")
        disable_keys(settings.store)
        ids = open_current(settings.store).catalogue.ids().to_pylist()
        here = Path(__file__).parent
        vetrina = [sys.executable, "-m", "uvicorn", "minimal_app:vetrina"]
        minimal = [sys.executable, "-m", "uvicorn", "minimal_app:minimal"]
        servers = []
        try:
            for number, command in enumerate((vetrina, minimal)):
                command += ["--port", str(PORT + number), "--log-level", "warning", "--no-access-log"]
                environment = os.environ | {"VETRINA_STORE": str(settings.store), "VETRINA_THREADS": "1"}
                servers.append(subprocess.Popen(["taskset", "-c", "0", *command], cwd=here, env=environment))
            figures = asyncio.run(measure(ids))
        finally:
            for server in servers:
                server.terminate()
                server.wait()
    report("http", figures, seed=0, packages=("fastapi", "uvicorn", "faiss-cpu"))


async def measure(ids: list[str]) -> dict[str, float]:
    """Return the rates of both apps and their ratio."""
    os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
    responses = [await ready(PORT + number, ids[0]) for number in (0, 1)]
    if responses[0] != responses[1]:
        raise SystemExit(f"the two apps return different items: {responses}")
    figures: dict[str, float] = {}
    for name, query in (("similar", f"?k={K}&space=image"), ("fused", f"?k={K}")):
        paths = [f"/v1/items/{quote(item_id, safe='')}/similar{query}" for item_id in ids]
        rates: dict[int, list[float]] = {0: [], 1: []}
        for _ in track(range(ROUNDS), name, console=Console(stderr=True)):
            for number, measured in rates.items():
                measured.append(await rate(PORT + number, paths))
        ours, theirs = (statistics.median(rates[number]) for number in (0, 1))
        figures |= {
            f"{name}_per_s": round(ours),
            f"{name}_minimal_per_s": round(theirs),
            f"{name}_over_minimal": round(ours / theirs, 3),
        }
    return figures


async def ready(port: int, item_id: str, space: str = "image") -> list[str]:
    """Wait until the server responds; return the item ids of its response."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
        for _ in range(600):
            try:
                response = await client.get(f"/v1/items/{item_id}/similar?space={space}")
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            if response.status_code == 200:
                return [item["item_id"] for item in response.json()["items"]]
            await asyncio.sleep(0.1)
    raise SystemExit(f"the server on port {port} did not become ready in time")


async def rate(port: int, paths: Sequence[str]) -> float:
    """Return responses a second over CONNECTIONS kept-alive connections, each with one request at a time."""
    queue = iter([paths[number % len(paths)] for number in range(REQUESTS)])

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path in queue:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"{path}: {head.splitlines()[0].decode()}")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return REQUESTS / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
