"""Feedback: going on to learn, proof that it helps, and the shoppers' rights."""

import time
from typing import Annotated

import typer

from serve.cli.render import learning as show
from serve.cli.terminal import Json, Store, ab_app, app, bars, err, out, print_result, quarantine_app
from serve.core.errors import EXPECTED, BadRequest, NotFound, error_response
from serve.core.settings import load_settings


@app.command()
def learn(
    every: Annotated[float | None, typer.Option(min=1, help="go on for ever, so many minutes apart")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Let the scorer go on learning from what is new, and publish it if it measures no worse. Goes on after a kill."""
    from serve.jobs.train import learn as run

    settings = load_settings(store=store)

    def once() -> None:
        with bars(json) as progress:
            report, built = run(settings, progress)
        release = None if built is None else built.manifest.release
        figures = {**vars(report), "release": release, "published": built is not None and built.published}
        print_result(json, figures, show.learn_report)

    if every is None:
        once()
        return
    while True:
        try:
            once()
        except EXPECTED as error:  # such as another job at work: the next time may go well
            err.print(error_response(error).message)
        time.sleep(60 * every)


@app.command()
def compact(
    days: Annotated[float, typer.Option(help="impressions and answers older than that go into Parquet files")] = 90,
    keep_days: Annotated[
        float | None, typer.Option(help="what is older than that is deleted for good", show_default="all is kept")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Make the database small again: what is old and only trainings read goes into files, in STORE/history."""
    from serve.jobs.compact import compact as run
    from serve.security import audit_log

    settings = load_settings(store=store)
    with bars(json) as progress:
        moved = run(settings, days, keep_days, progress)
    if keep_days is not None:
        audit_log.note(settings.store, "delete what is old", audit_log.operator(), older_than_days=keep_days)
    print_result(json, moved, show.moved)


@ab_app.command("start")
def ab_start(
    release: Annotated[str, typer.Argument(help="the release to try")],
    share: Annotated[float, typer.Option(min=0.001, max=0.999, help="of the shoppers whom it answers")] = 0.5,
    store: Store = None,
) -> None:
    """Let a release answer a share of the shoppers, in place of a test that may run. Servers follow within a second."""
    from serve.release.ab_test import start
    from serve.release.repository import current_name, open_release
    from serve.security import audit_log

    settings = load_settings(store=store)
    open_release(settings.store, release)  # checked before anybody gets it
    if release == current_name(settings.store):
        raise BadRequest(f"{release} answers everybody already: try another one, see vetrina releases", "release")
    start(settings.store, release, share)
    audit_log.note(settings.store, "start A/B test", audit_log.operator(), release=release, share=share)
    out.print(f"release {release} answers {share:.0%} of the shoppers; see vetrina ab report")


@ab_app.command("stop")
def ab_stop(store: Store = None) -> None:
    """Let the current release answer everybody; to let the other one: vetrina publish RELEASE before."""
    from serve.release.ab_test import stop
    from serve.security import audit_log

    settings = load_settings(store=store)
    stop(settings.store)
    audit_log.note(settings.store, "stop A/B test", audit_log.operator())
    out.print("the current release answers everybody")


@ab_app.command("report")
def ab_report(store: Store = None, json: Json = False) -> None:
    """What each part of the shoppers did with its recommendations, and how sure the difference is."""
    from serve.evaluation.ab_report import report

    print_result(json, report(load_settings(store=store)), show.comparison)


@quarantine_app.command("list")
def quarantine_list(store: Store = None, json: Json = False) -> None:
    """Who is in quarantine, or was released from it, since when and why."""
    from serve.storage.event_log import open_event_log

    events = open_event_log(load_settings(store=store))
    print_result(json, events.quarantined(), show.quarantine)


@quarantine_app.command("look")
def quarantine_look(store: Store = None, json: Json = False) -> None:
    """Look for robots and click floods now, as every training does, and list who is new in quarantine."""
    from serve.storage.bot_detection import watch
    from serve.storage.event_log import open_event_log

    events = open_event_log(load_settings(store=store))
    new = {one.user_id for one in watch(events)}
    print_result(json, [one for one in events.quarantined() if one.user_id in new], show.quarantine)


@quarantine_app.command("release")
def quarantine_release(
    user: Annotated[str, typer.Argument(help="who is to be learned from again, for good")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Learn from a user again."""
    from serve.security import audit_log
    from serve.storage.event_log import open_event_log

    settings = load_settings(store=store)
    if not open_event_log(settings).release(user):
        raise NotFound(f"there is no {user!r} in quarantine: vetrina quarantine list tells who is", "user")
    audit_log.note(settings.store, "release from quarantine", audit_log.operator(), user=audit_log.hashed(user))
    print_result(json, {"released": user}, lambda _: "released; the next training learns from what it did")


@app.command()
def ope(
    release: Annotated[str, typer.Argument(help="the release to judge")],
    store: Store = None,
    json: Json = False,
) -> None:
    """What a release would have earned on the lists that were drawn: off-policy estimates with intervals."""
    from serve.evaluation.off_policy_report import judge

    settings = load_settings(store=store)
    with bars(json) as progress:
        found = judge(settings, release, progress)
    print_result(json, found, show.judgement)


@app.command()
def forget(
    user: Annotated[str, typer.Argument(help="whose events, answers and preferences are removed")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Forget a shopper: nothing is left on disk, and what is trained next does not have them."""
    from serve.security import audit_log
    from serve.storage.database import open_database
    from serve.storage.erasure import UserPrivacy, replay_erasures

    settings = load_settings(store=store)
    replay_erasures(settings)
    database = open_database(settings)
    removed = UserPrivacy(database, settings.store).erase(user)
    database.close()
    audit_log.note(settings.store, "erase", audit_log.operator(), user=audit_log.hashed(user))
    print_result(json, removed, show.removed)
