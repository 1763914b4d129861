"""10,000 requests that schemathesis generates from the OpenAPI document, sent to the real service with an API key.

Half of the requests conform to the document and half violate it on purpose. Every operation gets the same number,
except those that have fewer distinct cases. `server_errors` counts responses with status 5xx; `schema_violations`
counts responses whose status, media type, headers or body the document does not declare for the operation.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import httpx
from report import report
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.openapi_cases import CHECKS, ask

from serve.core.settings import Settings
from serve.demo.shop import make_shop
from serve.jobs.build import build
from serve.jobs.import_events import import_events
from serve.jobs.train import train, train_scorer
from serve.release.repository import open_current
from serve.security.api_keys import create_key

CASES = 10_000
SEED = 7
PORT = 18_441


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=CASES)
    cases = parser.parse_args().cases
    with tempfile.TemporaryDirectory() as folder:
        shop = Path(folder)
        make_shop(shop, items=96, users=400)
        quick = {"towers": {"epochs": 2, "dim": 16}, "scorer": {"epochs": 2, "cases": 200, "hard": 20}}
        configured = Settings(store=shop / "store", image_root=shop, **quick)
        build(configured, shop / "catalog.csv")
        import_events(configured, shop / "events.jsonl")
        train(configured)
        train_scorer(configured)
        build(configured)
        ids = open_current(configured.store).ids
        key = create_key(configured.store, "contract", ["admin"], rate=1_000_000)
        environment = os.environ | {"VETRINA_STORE": str(configured.store), "VETRINA_IMAGE_ROOT": str(shop)}
        command = [sys.executable, "-c", "from serve.cli import main; main()", "serve", "--port", str(PORT)]
        with (shop / "service.log").open("w") as log:
            server = subprocess.Popen(command, env=environment, cwd=shop, stderr=log)
        try:
            until_ready()
            counts = ask(
                f"http://127.0.0.1:{PORT}",
                key,
                [ids.item_id(number) for number in range(len(ids))],
                cases,
                SEED,
                lambda operations: track(operations, "operations", console=Console(stderr=True)),
            )
        finally:
            server.terminate()
            server.wait()
    statuses = {name: counts[name] for name in sorted(counts) if name.startswith("status_")}
    figures = {name: counts[name] for name in ("cases", *CHECKS)} | statuses
    report("contract", figures, seed=SEED, packages=("fastapi", "schemathesis", "hypothesis"))


def until_ready() -> None:
    """Wait until the service is ready."""
    for _ in range(1200):
        with suppress(httpx.TransportError):
            if httpx.get(f"http://127.0.0.1:{PORT}/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the service did not become ready in time")


if __name__ == "__main__":
    main()
