"""Commands that compare releases: A/B tests and off-policy estimates."""

from typing import Annotated

import typer

from serve.cli.render import learning as render
from serve.cli.terminal import Json, Store, ab_app, app, bars, print_next, print_result
from serve.core.errors import BadRequest
from serve.core.settings import load_settings


@ab_app.command("start")
def ab_start(
    release: Annotated[str, typer.Argument(help="Release to test.")],
    share: Annotated[float, typer.Option(min=0.001, max=0.999, help="Share of users who get the release.")] = 0.5,
    store: Store = None,
    json: Json = False,
) -> None:
    """Test a release on some users.

    A test that runs already ends. Running services follow within a second.
    """
    from serve.release.ab_test import start
    from serve.release.repository import current_name, open_release
    from serve.security import audit_log

    settings = load_settings(store=store)
    open_release(settings.store, release)  # checked before any user gets it
    if release == current_name(settings.store):
        raise BadRequest(
            f"invalid release {release!r}: it is the active one, choose another (vetrina releases)", "release"
        )
    start(settings.store, release, share)
    audit_log.record(settings.store, "start A/B test", audit_log.command_line_user(), release=release, share=share)
    print_result(
        json, {"release": release, "share": share}, lambda _: f"release {release} serves {share:.0%} of the users"
    )
    print_next(json, settings, "ab report")


@ab_app.command("stop")
def ab_stop(store: Store = None, json: Json = False) -> None:
    """Stop the A/B test.

    The active release then serves all users. To continue with the tested one, publish it first.
    """
    from serve.release.ab_test import stop
    from serve.security import audit_log

    settings = load_settings(store=store)
    stop(settings.store)
    audit_log.record(settings.store, "stop A/B test", audit_log.command_line_user())
    print_result(json, {"stopped": True}, lambda _: "the active release serves all users")


@ab_app.command("report")
def ab_report(store: Store = None, json: Json = False) -> None:
    """Compare the arms of the test.

    Prints the interactions that follow a list in each arm, and 95 % intervals of the difference.
    """
    from serve.evaluation.ab_report import report

    print_result(json, report(load_settings(store=store)), render.ab_report)


@app.command("off-policy")
def off_policy(
    release: Annotated[str, typer.Argument(help="Release to estimate.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Estimate a release from logged lists.

    Prints off-policy estimates (IPS, SNIPS, doubly robust) with 95 % intervals; they need lists that were explored.
    """
    from serve.evaluation.off_policy_report import estimate_release

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = estimate_release(settings, release, progress)
    print_result(json, report, render.off_policy)


app.command("ope", hidden=True, deprecated=True)(off_policy)
