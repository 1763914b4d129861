"""Cost of feedback: the time of an update of the online head, and the latency of responses while feedback arrives.

`update_ms` is the median time to record one response of ten items and one click, with the new weights computed. Then
the 99th percentile of `/v1/recommend` on the demo shop is measured, with the service on one core and its clients on the
other, in turns without feedback and with 500 events a second in requests of 25: clicks on the most recent responses.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from cold_start import demo_store
from http_service import ready
from report import earlier, report
from rich.console import Console
from rich.progress import track

from serve.cli import bars
from serve.core.settings import Settings
from serve.core.settings_sections import OnlineSettings
from serve.jobs.build import build
from serve.jobs.train import train, train_scorer
from serve.recommend.ranking.online_head import OnlineHead
from serve.release.repository import open_current

SEED = 0
PORT = 18_451
ROUNDS, REQUESTS = 5, 400
RATE, AT_ONCE = 500, 25


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
        settings = demo_store(Path(folder), progress)
        train(settings, progress)
        train_scorer(settings, progress)
        build(settings, progress=progress)
        item = open_current(settings.store).catalogue.ids()[0].as_py()
        figures: dict[str, float | int | str | None] = {"update_ms": round(update_ms(settings), 3)}
        command = [sys.executable, "-m", "uvicorn", "minimal_app:vetrina", "--port", str(PORT), "--no-access-log"]
        environment = os.environ | {"VETRINA_STORE": str(settings.store), "VETRINA_THREADS": "1"}
        server = subprocess.Popen(
            ["taskset", "-c", "0", *command, "--log-level", "warning"], cwd=Path(__file__).parent, env=environment
        )
        os.sched_setaffinity(0, {1 % (os.cpu_count() or 1)})
        try:
            figures |= asyncio.run(measure(item))
        finally:
            server.terminate()
            server.wait()
    report("feedback", earlier("feedback") | figures, SEED, ("torch", "fastapi", "uvicorn"))


def update_ms(settings: Settings) -> float:
    """Return the median milliseconds of an update of the online head."""
    scorer = open_current(settings.store).behaviour.scorer
    assert scorer is not None
    scale, online = np.array(scorer.metadata.hidden_scale, np.float32), OnlineSettings()
    head = OnlineHead(list(scorer.metadata.heads), scale, online.prior, online.half_life_days, 0.0)
    random = np.random.default_rng(SEED)
    took = []
    for number in range(500):
        hidden = random.normal(size=(10, len(scale))).astype(np.float32)
        probabilities = random.random((10, len(head.heads))).astype(np.float32)
        started = time.perf_counter()
        head.record_shown(hidden, probabilities, number)
        head.record_outcome(hidden[0], head.heads[0], number)
        head.weights(number)
        took.append(1000 * (time.perf_counter() - started))
    return statistics.median(took)


async def measure(item: str) -> dict[str, float | int | str | None]:
    """Return latencies of `/v1/recommend` without and with feedback."""
    await ready(PORT, item, "text")
    took: dict[bool, list[float]] = {False: [], True: []}
    sent = 0
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=60, trust_env=False) as client:
        recent: list[tuple[str, str, str]] = []
        await ask(client, 200, [], recent)
        for _ in track(range(ROUNDS), "rounds", console=Console(stderr=True)):
            for with_feedback in (False, True):
                stop = asyncio.Event()
                sender = asyncio.create_task(send(client, recent, stop)) if with_feedback else None
                await ask(client, REQUESTS, took[with_feedback], recent)
                stop.set()
                sent += await sender if sender else 0
    p99 = {with_feedback: float(np.quantile(times, 0.99)) for with_feedback, times in took.items()}
    return {
        "events": sent,
        "recommend_p99_ms": round(p99[False], 2),
        "recommend_p99_ms_with_feedback": round(p99[True], 2),
        "recommend_p50_ms": round(statistics.median(took[False]), 2),
        "recommend_p50_ms_with_feedback": round(statistics.median(took[True]), 2),
        "p99_growth": round(p99[True] / p99[False] - 1, 4),
    }


async def ask(client: httpx.AsyncClient, count: int, took: list[float], recent: list[tuple[str, str, str]]) -> None:
    """Request recommendations one after the other, at most 20 a second; append to `took` and `recent`."""
    for number in range(count):
        user = f"u{number % 1500:05}"
        started = time.perf_counter()
        response = (await client.post("/v1/recommend", json={"user_id": user, "k": 10})).raise_for_status().json()
        took.append(1000 * (time.perf_counter() - started))
        recent += [(user, response["request_id"], one["item_id"]) for one in response["items"][:3]]
        del recent[:-600]
        await asyncio.sleep(max(0.0, 0.05 - (time.perf_counter() - started)))


async def send(client: httpx.AsyncClient, recent: list[tuple[str, str, str]], stop: asyncio.Event) -> int:
    """Send clicks on recent responses at RATE events a second until `stop` is set; return the number of events."""
    random, sent, started = np.random.default_rng(SEED), 0, time.perf_counter()
    while not stop.is_set():
        chosen = [recent[index] for index in random.integers(0, len(recent), AT_ONCE)]
        events = [{"user_id": u, "request_id": r, "item_id": i, "type": "click"} for u, r, i in chosen]
        (await client.post("/v1/events", json={"events": events})).raise_for_status()
        sent += AT_ONCE
        await asyncio.sleep(max(0.0, started + sent / RATE - time.perf_counter()))
    return sent


if __name__ == "__main__":
    main()
