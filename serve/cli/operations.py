"""Commands that operate a store: API keys, audit log, hidden items, quarantine, erasure, compaction."""

from typing import Annotated

import typer

from serve.cli.render import learning as render_learning
from serve.cli.render import operations as render
from serve.cli.terminal import Json, Store, app, bars, keys_app, print_next, print_result, quarantine_app
from serve.core.errors import NotFound
from serve.core.settings import load_settings


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="Name of the key, which appears in logs.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="Scope of the key: query, events, catalogue or admin; repeatable.", show_default="query"),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Maximum requests per second.", show_default="setting rate_limit"),
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Create an API key.

    The key is printed once: the store keeps only its hash. Scope query allows searches and recommendations, events
    allows to record events and preferences, catalogue allows to change items, admin allows everything. The console
    needs admin.
    """
    from serve.security import audit_log
    from serve.security.api_keys import create_key, parse_scopes

    settings = load_settings(store=store)
    scopes = parse_scopes(scope or ["query"])
    secret = create_key(settings.store, name, scopes, rate)
    audit_log.record(settings.store, "create key", audit_log.command_line_user(), key=name, scopes=list(scopes))
    print_result(json, {"name": name, "scopes": scopes, "key": secret}, render.new_key)
    print_next(json, settings, "serve")


@keys_app.command("list")
def keys_list(store: Store = None, json: Json = False) -> None:
    """List the API keys."""
    from serve.security.api_keys import list_keys

    keys = list_keys(load_settings(store=store).store)
    print_result(json, [key.model_dump(mode="json", exclude={"sha256", "number"}) for key in keys], render.keys)


@keys_app.command("revoke")
def keys_revoke(
    name: Annotated[str, typer.Argument(help="Name of the key.")], store: Store = None, json: Json = False
) -> None:
    """Revoke an API key.

    Running services refuse it within a second.
    """
    from serve.security import audit_log
    from serve.security.api_keys import revoke_key

    settings = load_settings(store=store)
    revoke_key(settings.store, name)
    audit_log.record(settings.store, "revoke key", audit_log.command_line_user(), key=name)
    print_result(json, {"revoked": name}, lambda _: f"key {name} is revoked")


@keys_app.command("disable")
def keys_disable(store: Store = None, json: Json = False) -> None:
    """Allow requests without a key.

    The service then answers requests from this machine without a key, and listens on loopback addresses only. All keys
    must be revoked first. `vetrina keys create` requires keys again.
    """
    from serve.security import audit_log
    from serve.security.api_keys import disable_keys

    settings = load_settings(store=store)
    disable_keys(settings.store)
    audit_log.record(settings.store, "disable keys", audit_log.command_line_user())
    print_result(json, {"auth": "none"}, lambda _: "keys are disabled: requests from this machine need no key")


@app.command()
def review(store: Store = None, json: Json = False) -> None:
    """List items hidden by moderation.

    The file review.toml in the store says what is hidden.
    """
    from serve.live.replica import open_snapshot

    snapshot = open_snapshot(load_settings(store=store))
    hidden = [
        {"item_id": snapshot.item_id(item_index), "title": snapshot.item(item_index).title, "reason": reason}
        for item_index, reason in sorted(snapshot.hidden.items())
    ]
    print_result(json, hidden, render.hidden_items)


@app.command()
def audit(
    last: Annotated[int, typer.Option("--last", min=1, max=100_000, help="Number of entries.")] = 50,
    store: Store = None,
    json: Json = False,
) -> None:
    """Show the audit log.

    It has each change of keys, releases and items, and each erasure: by whom and when; the latest last.
    """
    from serve.security.audit_log import read_latest

    print_result(json, read_latest(load_settings(store=store).store, last), render.audit_log)


@quarantine_app.command("list")
def quarantine_list(store: Store = None, json: Json = False) -> None:
    """List quarantined users.

    Their events are stored but not learned from. Released users are listed too.
    """
    from serve.storage.quarantine import Quarantine
    from serve.storage.store_database import open_database

    database = open_database(load_settings(store=store))
    entries = Quarantine(database).entries()
    database.close()
    print_result(json, entries, render_learning.quarantine)


@quarantine_app.command("scan")
def quarantine_scan(store: Store = None, json: Json = False) -> None:
    """Scan for robots and click floods.

    Every training scans too. Lists the users who are new in quarantine.
    """
    from serve.storage.bot_detection import quarantine_bots
    from serve.storage.event_log import open_event_log
    from serve.storage.quarantine import Quarantine

    events = open_event_log(load_settings(store=store))
    found = {suspect.user_id for suspect in quarantine_bots(events)}
    entries = [entry for entry in Quarantine(events.database).entries() if entry.user_id in found]
    events.close()
    print_result(json, entries, render_learning.quarantine)


quarantine_app.command("look", hidden=True, deprecated=True)(quarantine_scan)


@quarantine_app.command("release")
def quarantine_release(
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Release a user from quarantine.

    The next training learns from the user's events again. Later scans leave the user released.
    """
    from serve.security import audit_log
    from serve.storage.quarantine import Quarantine
    from serve.storage.store_database import open_database

    settings = load_settings(store=store)
    database = open_database(settings)
    released = Quarantine(database).release(user)
    database.close()
    if not released:
        raise NotFound(f"user {user!r} is not in quarantine: see vetrina quarantine list", "user")
    user_hash = audit_log.hash_user_id(user)
    audit_log.record(settings.store, "release from quarantine", audit_log.command_line_user(), user=user_hash)
    print_result(json, {"released": user}, lambda _: "released: the next training learns from this user's events")


@app.command()
def erase(
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    store: Store = None,
    json: Json = False,
) -> None:
    """Erase a user's data.

    Removes events, impressions, preferences and contacts from disk. Models trained later do not contain them.
    """
    from serve.security import audit_log
    from serve.storage.erasure import UserPrivacy, replay_erasures
    from serve.storage.store_database import open_database

    settings = load_settings(store=store)
    replay_erasures(settings)
    database = open_database(settings)
    counts = UserPrivacy(database, settings.store).erase(user)
    database.close()
    audit_log.record(settings.store, "erase", audit_log.command_line_user(), user=audit_log.hash_user_id(user))
    print_result(json, counts, render_learning.erasure)


app.command("forget", hidden=True, deprecated=True)(erase)


@app.command()
def compact(
    days: Annotated[float, typer.Option(help="Age in days from which impressions move into files.")] = 90,
    keep_days: Annotated[
        float | None,
        typer.Option(help="Age in days from which data is deleted.", show_default="nothing is deleted"),
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Move old impressions into files.

    Only trainings read them, from Parquet files in STORE/history; the database gets smaller.
    """
    from serve.jobs.compact import compact as run
    from serve.security import audit_log

    settings = load_settings(store=store)
    with bars(json) as progress:
        report = run(settings, days, keep_days, progress)
    if keep_days is not None:
        by = audit_log.command_line_user()
        audit_log.record(settings.store, "delete what is old", by, older_than_days=keep_days)
    print_result(json, report, render_learning.compaction)
