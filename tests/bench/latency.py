"""Latency of `/v1/recommend`: 100,000 items, one client, the service on one core, without and with a scorer.

Items have random text vectors in clusters, and users stay within a few clusters, so that every retriever has
candidates. The towers are trained for one epoch: their size matters here, their quality does not.
"""

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import orjson
from http_service import ready
from report import report
from rich.console import Console
from rich.progress import track
from soak_shop import CLUSTERS, keep_vectors

from serve.cli import bars
from serve.core.settings import Settings
from serve.engine.user_context import load_user_context
from serve.jobs.build import build, ingest_feed
from serve.jobs.import_events import import_events
from serve.jobs.train import train, train_scorer
from serve.live.replica import open_engine
from serve.recommend.ranking.feature import FeatureContext
from serve.recommend.ranking.feature_builder import FeatureBuilder
from serve.recommend.retrieval.tower import encode_user
from serve.storage.event_log import open_event_log

SEED = 0
ITEMS, USERS, EVENTS = 100_000, 10_000, 25
REQUESTS = 500
PORT = 18_441
K = 10
NOW = 1_700_000_000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
        shop = Path(folder)
        draw(shop)
        settings = Settings(store=shop / "store", towers={"epochs": 1})  # type: ignore[arg-type]
        ingest_feed(settings, shop / "items.jsonl", progress=progress)
        keep_vectors(settings.store)
        build(settings, progress=progress)
        import_events(settings, shop / "events.jsonl", progress=progress)
        train(settings, progress)
        build(settings, progress=progress)
        figures = {**inside(settings), **asyncio.run(over_http(settings, "recommend"))}
        train_scorer(settings, progress)
        build(settings, progress=progress)
        figures |= {**scoring(settings), **asyncio.run(over_http(settings, "recommend_reranked"))}
    report("latency", figures, SEED, ("torch", "faiss-cpu", "fastapi", "uvicorn"))


def draw(shop: Path) -> None:
    """Write the feed and the events of a random shop whose users stay in a few clusters each."""
    source = random.Random(SEED)
    with (shop / "items.jsonl").open("wb") as file:
        for number in range(ITEMS):
            kind = number % CLUSTERS
            item = {
                "item_id": f"sku-{number}",
                "title": f"Thing {number} of {kind}",
                "category": f"Kind {kind}",
                "price": round(source.lognormvariate(3, 1), 2),
                "updated_at": NOW - source.randrange(400) * 86_400,
            }
            file.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))
    with (shop / "events.jsonl").open("wb") as file:
        for user in range(USERS):
            kinds = [source.randrange(CLUSTERS) for _ in range(3)]
            start = NOW - source.randrange(60) * 86_400
            for step in range(EVENTS):
                number = int(source.paretovariate(1.2)) % (ITEMS // CLUSTERS) * CLUSTERS + source.choice(kinds)
                event = {
                    "user_id": f"u{user}",
                    "item_id": f"sku-{number}",
                    "type": source.choice(["view", "click", "click", "cart", "purchase"]),
                    "timestamp": start + 60 * step,
                }
                file.write(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))


def inside(settings: Settings) -> dict[str, float]:
    """Return the median latencies of the parts of a request, measured in this process."""
    engine, store = open_engine(settings), open_event_log(settings)
    towers, index = engine.snapshot.release.behaviour.towers, engine.snapshot.tower
    assert towers is not None
    assert index is not None
    vector = partial(encode_user, towers, index)
    took: dict[str, list[float]] = {"events": [], "user_tower": [], "engine": []}
    for user in track(range(REQUESTS), "inside", console=Console(stderr=True)):
        moments = [time.perf_counter()]
        known = load_user_context(store, settings, f"u{user}")
        moments.append(time.perf_counter())
        vector(engine.user(known.events))
        moments.append(time.perf_counter())
        engine.recommend(known.events, K, known.excluded_items)
        moments.append(time.perf_counter())
        for times, seconds in zip(took.values(), np.diff(moments), strict=True):
            times.append(seconds * 1000)
    return {f"{name}_p50_ms": round(statistics.median(times), 3) for name, times in took.items()} | {
        "tower_index": index.factory,  # type: ignore[dict-item]
        "items": engine.snapshot.items,
    }


def scoring(settings: Settings) -> dict[str, float]:
    """Return the median times to compute features of 200 candidates, to explain them, and both together."""
    engine, store = open_engine(settings), open_event_log(settings)
    snapshot, behaviour = engine.snapshot, engine.snapshot.release.behaviour
    scorer = behaviour.scorer
    assert scorer is not None
    spaces = {**snapshot.spaces, "tower": snapshot.tower}
    builder = FeatureBuilder(
        spaces,
        snapshot.signals_of,
        behaviour.covisitation,
        behaviour.metadata.score_model.smoothing,
        snapshot.index_mapping,
    )
    took: dict[str, list[float]] = {"features_200": [], "explain_200": [], "score_200": []}
    for user in track(range(REQUESTS), "scoring", console=Console(stderr=True)):
        known = load_user_context(store, settings, f"u{user}")
        history, found = engine.user(known.events), engine.candidates(known.events, 200, known.excluded_items)
        moments = [time.perf_counter()]
        features = builder.build(history, found, FeatureContext(time.time(), 12.0))
        moments.append(time.perf_counter())
        scorer.explain(features, settings.head_values)
        moments.append(time.perf_counter())
        for times, seconds in zip(took.values(), [*np.diff(moments), moments[-1] - moments[0]], strict=True):
            times.append(seconds * 1000)
    return {f"{name}_p50_ms": round(statistics.median(times), 3) for name, times in took.items()}


async def over_http(settings: Settings, name: str) -> dict[str, float]:
    """Return the latency of `/v1/recommend` over HTTP."""
    command = [sys.executable, "-m", "uvicorn", "minimal_app:vetrina", "--port", str(PORT), "--log-level", "warning"]
    environment = os.environ | {"VETRINA_STORE": str(settings.store), "VETRINA_THREADS": "1"}
    server = subprocess.Popen(
        ["taskset", "-c", "0", *command, "--no-access-log"], cwd=Path(__file__).parent, env=environment
    )
    os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
    try:
        await ready(PORT, "sku-0", "text")
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        took = []
        for user in track(range(REQUESTS + 50), "over http", console=Console(stderr=True)):
            body = orjson.dumps({"user_id": f"u{user}", "k": K})
            head = f"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            started = time.perf_counter()
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            headers = await reader.readuntil(b"\r\n\r\n")
            if not headers.startswith(b"HTTP/1.1 200"):
                raise SystemExit(headers.decode())
            length = next(line for line in headers.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            took.append((time.perf_counter() - started) * 1000)
        writer.close()
    finally:
        server.terminate()
        server.wait()
    took = sorted(took[50:])
    return {
        f"{name}_p50_ms": round(statistics.median(took), 2),
        f"{name}_p95_ms": round(took[int(0.95 * len(took))], 2),
    }


if __name__ == "__main__":
    main()
