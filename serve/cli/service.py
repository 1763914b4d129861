"""Commands that run the service, check this machine and the store, and make the demo shop."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from serve.cli.render import operations as render
from serve.cli.terminal import Json, Store, app, bars, print_result, print_text
from serve.core.errors import BadRequest
from serve.core.settings import RATES_VARIABLE, SETTINGS_VARIABLE, Settings, load_settings


@app.command()
def serve(
    store: Store = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8000")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes.", show_default="1")] = None,
) -> None:
    """Run the HTTP service and console.

    The service follows releases, live changes and API keys while it runs.
    """
    import uvicorn

    from serve.core.metrics import FOLDER_VARIABLE
    from serve.http.logging_config import log_config
    from serve.http.middleware.local_access import is_loopback
    from serve.http.uvicorn_protocol import HeadTimeoutProtocol
    from serve.security.api_keys import list_keys
    from serve.storage.store_database import check_database

    settings = load_settings(store=store, host=host, port=port, workers=workers)
    if not is_loopback(settings.host) and not list_keys(settings.store):
        raise BadRequest(
            f"invalid host {settings.host!r}: other machines can reach it, and the store has no API key. Run first: "
            f"vetrina keys create NAME --scope admin --store {settings.store}",
            "host",
        )
    check_database(settings)
    _print_addresses(settings)
    os.environ[SETTINGS_VARIABLE] = settings.model_dump_json()
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # without it each thread of a worker keeps a heap of its own
    with tempfile.TemporaryDirectory(prefix="vetrina-") as folder:
        if settings.workers > 1:  # workers add up their metrics and the keys' rates there
            os.environ.setdefault(FOLDER_VARIABLE, folder)
            os.environ[RATES_VARIABLE] = str(Path(folder) / "rates")
        # Workers are spawned, not forked, and map the same files: any number of them holds the indexes in memory once.
        uvicorn.run(
            "serve.http.app:served_app",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            http=HeadTimeoutProtocol,
            timeout_worker_healthcheck=60,
            timeout_graceful_shutdown=settings.timeouts.stop,
            log_config=log_config(settings.log_format),
            proxy_headers=False,  # the address of a caller is that of its connection
            access_log=False,  # the middleware writes one without user ids
            server_header=False,
        )


def _print_addresses(settings: Settings) -> None:
    """Print where the console is, and what to run where there is no release."""
    from serve.release.repository import current_name

    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    if settings.port:  # port 0 is chosen later, and logged
        print_text(f"console: http://{host}:{settings.port}/console/  API: http://{host}:{settings.port}/docs")
    if current_name(settings.store) is None:
        print_text(
            f"no release in store {settings.store} yet: run vetrina build FEED --store {settings.store}. The service "
            "uses it as soon as it is published."
        )


@app.command()
def doctor(
    store: Store = None,
    encoder: Annotated[
        str | None, typer.Option("--encoder", metavar="NAME", help="Load this encoder and report on it alone.")
    ] = None,
    json: Json = False,
) -> None:
    """Check machine and store.

    Exit code 1 where something is wrong; each finding says what to do.
    """
    from serve.jobs.doctor import examine
    from serve.jobs.encoder_check import examine_encoder

    settings = load_settings(store=store)
    findings = examine(settings) if encoder is None else examine_encoder(settings, encoder)
    print_result(json, findings, render.findings)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Folder of the demo shop.")] = Path("demo-shop"),
) -> None:
    """Make and tour the demo shop.

    Draws a shop, builds it, learns from its invented users and shows searches and recommendations.
    """
    from serve.cli.demo_tour import tour

    with bars(quiet=False) as progress:
        shown = tour(folder, progress)
    print_text(shown)
