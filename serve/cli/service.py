"""The service, the machine it runs on, and the demo shop."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from serve.cli.render import results as show
from serve.cli.terminal import Json, Store, app, bars, out, print_result
from serve.core.errors import BadRequest
from serve.core.settings import RATES, SERVED, load_settings


@app.command()
def serve(
    store: Store = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(show_default="8000")] = None,
    workers: Annotated[int | None, typer.Option(help="processes that answer", show_default="1")] = None,
) -> None:
    """Start the HTTP service; it follows releases and live changes while it runs. The OpenAPI page is at /docs."""
    import uvicorn

    from serve.core.metrics import FOLDER
    from serve.http.logging_config import log_config
    from serve.http.middleware.gateway import is_loopback
    from serve.http.uvicorn_protocol import PatientProtocol
    from serve.security.api_keys import list_keys

    settings = load_settings(store=store, host=host, port=port, workers=workers)
    if not is_loopback(settings.host) and not list_keys(settings.store):
        raise BadRequest(
            f"{settings.host} can be reached from elsewhere and there is no key: first vetrina keys create NAME "
            f"--scope admin --store {settings.store}",
            "host",
        )
    os.environ[SERVED] = settings.model_dump_json()
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # else each thread of a worker keeps a heap of its own
    with tempfile.TemporaryDirectory(prefix="vetrina-") as folder:
        if settings.workers > 1:  # what each counts is added up there
            os.environ.setdefault(FOLDER, folder)
            os.environ[RATES] = str(Path(folder) / "rates")
        # Workers are spawned, not forked, and map the same files: indexes lie in memory once, whatever their number.
        uvicorn.run(
            "serve.http.app:served_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            http=PatientProtocol,
            timeout_worker_healthcheck=60,
            timeout_graceful_shutdown=settings.timeouts.stop,
            log_config=log_config(settings.log_format),
            access_log=False,  # the front has its own, without ids of shoppers
            server_header=False,
        )


@app.command()
def doctor(store: Store = None, json: Json = False) -> None:
    """What this machine can do, and what is wrong with a store; exit code 1 if anything is."""
    from serve.jobs.doctor import examine

    findings = examine(load_settings(store=store))
    print_result(json, findings, show.findings)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="where the demo shop goes")] = Path("demo-shop"),
) -> None:
    """Draw the demo shop, build it, and show what it answers."""
    from serve.cli.demo_tour import tour

    with bars(quiet=False) as progress:
        answers = tour(folder, progress)
    out.print(answers)
