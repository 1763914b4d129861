"""Who may call, what may be shown, and who changed what: keys, content review, the audit log."""

from typing import Annotated

import typer

from serve.cli.render import security as show
from serve.cli.terminal import Json, Store, app, keys_app, out, print_result
from serve.core.settings import load_settings


@keys_app.command("create")
def keys_create(
    name: Annotated[str, typer.Argument(help="what the key is for: it appears in logs")],
    scope: Annotated[
        list[str] | None, typer.Option(help="query, events, catalogue or admin; repeat it", show_default="query")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="requests a second", show_default="rate_limit of the settings")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Make a key and print it, this once: the store keeps its hash. Once there is one, nobody is answered without.

    query: searches, recommendations. events: what shoppers did and prefer. catalogue: live changes. admin: everything.
    """
    from serve.security import audit_log
    from serve.security.api_keys import create_key, scopes_of

    settings = load_settings(store=store)
    scopes = scopes_of(scope or ["query"])
    secret = create_key(settings.store, name, scopes, rate)
    audit_log.note(settings.store, "create key", audit_log.operator(), key=name, scopes=list(scopes))
    print_result(json, {"name": name, "scopes": scopes, "key": secret}, show.new_key)


@keys_app.command("list")
def keys_list(store: Store = None, json: Json = False) -> None:
    """The keys there are, with their scopes; never their texts, which nobody has."""
    from serve.security.api_keys import list_keys

    kept = list_keys(load_settings(store=store).store)
    print_result(json, [key.model_dump(mode="json", exclude={"sha256", "number"}) for key in kept], show.keys)


@keys_app.command("revoke")
def keys_revoke(name: Annotated[str, typer.Argument(help="which key")], store: Store = None) -> None:
    """Let a key open nothing any more, within a second."""
    from serve.security import audit_log
    from serve.security.api_keys import revoke_key

    settings = load_settings(store=store)
    revoke_key(settings.store, name)
    audit_log.note(settings.store, "revoke key", audit_log.operator(), key=name)
    out.print(f"key {name} opens nothing any more")


@app.command()
def review(store: Store = None, json: Json = False) -> None:
    """What content review hides of the current release and its live changes, and why. review.toml says by what."""
    from serve.live.replica import open_view

    view = open_view(load_settings(store=store))
    hidden = [
        {"item_id": view.text(number), "title": view.item(number).title, "reason": why}
        for number, why in sorted(view.hidden.items())
    ]
    print_result(json, hidden, show.hidden)


@app.command()
def audit(
    last: Annotated[int, typer.Option("--last", min=1, max=100_000, help="how many acts")] = 50,
    store: Store = None,
    json: Json = False,
) -> None:
    """Who changed what and when, the latest last: keys, releases, live changes, erasures."""
    from serve.security.audit_log import read

    print_result(json, read(load_settings(store=store).store, last), show.acts)
