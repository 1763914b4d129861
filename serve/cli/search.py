"""Commands that search and recommend: search, similar, related, recommend, candidates, rules."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from serve.cli.render import results as render
from serve.cli.terminal import (
    Explain,
    Filter,
    Json,
    K,
    Spaces,
    Store,
    User,
    app,
    bars,
    print_next,
    print_result,
    rules_app,
)
from serve.core.errors import BadRequest
from serve.core.settings import Settings, load_settings


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="Text to search for.")] = None,
    image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Photo to search for.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="Id of an item to look like; repeatable.")] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="Id of an item not to look like; repeatable.")] = None,
    filter_: Filter = None,
    facet: Annotated[list[str] | None, typer.Option(help="Column or attribute to count; repeatable.")] = None,
    space: Spaces = None,
    user: User = None,
    explain: Explain = False,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """Search by text, photo or items.

    Text, a photo and items can be combined in one search.
    """
    from serve.engine.query import Query
    from serve.engine.response import local_response, search_body
    from serve.live.replica import open_engine

    photo = image.read_bytes() if image else None
    query = Query(
        k=k,
        text=text,
        image=photo,
        like=like or (),
        unlike=unlike or (),
        spaces=space or (),
        filter=_read_filter(filter_),
    )
    settings = load_settings(store=store)
    engine = open_engine(settings)
    response = local_response(
        engine, lambda: search_body(engine, query, _personalization(settings, user, explain), facets=facet or ())
    )
    print_result(json, response, render.search_results)


@app.command()
def similar(
    item_ids: Annotated[list[str], typer.Argument(help="Ids of one or more items.")],
    filter_: Filter = None,
    space: Spaces = None,
    user: User = None,
    explain: Explain = False,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """Find similar items."""
    conditions, settings = _read_filter(filter_), load_settings(store=store)
    response = _respond(
        settings,
        lambda engine: engine.similar(
            item_ids, k, space or (), conditions, personalization=_personalization(settings, user, explain)
        ),
    )
    print_result(json, response, render.results)


@app.command()
def related(
    item_id: Annotated[str, typer.Argument(help="Id of an item.")],
    relation: Annotated[str | None, typer.Option(help="Name of one relation.", show_default="all relations")] = None,
    kind: Annotated[
        str | None, typer.Option(help="Kind of relations: complement, substitute or related.", show_default="all kinds")
    ] = None,
    filter_: Filter = None,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """Find related and complementary items.

    They come from the relations that the shop imported or configured, and from what these imply.
    """
    from serve.engine.related_items import related_items

    conditions, settings = _read_filter(filter_), load_settings(store=store)
    response = _respond(settings, lambda engine: related_items(engine, item_id, k, relation, kind, conditions))
    print_result(json, response, render.results)


@app.command()
def relations(
    links: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV or TSV file of links between items.")],
    item: Annotated[str, typer.Option(help="Column of the item.")] = "item_id",
    other: Annotated[str, typer.Option(help="Column of the related item.")] = "related_id",
    relation: Annotated[
        str, typer.Option(help="Column of the relation's name; empty if all links are of the relation related.")
    ] = "relation",
    by: Annotated[
        str, typer.Option(help="Attribute that names the items, such as parent_sku.", show_default="the item id")
    ] = "",
    store: Store = None,
    json: Json = False,
) -> None:
    """Import links between items.

    The next build uses them.
    """
    from embed.catalogue import Catalogue
    from serve.recommend.ranking.merchandising_rules import rules_file
    from serve.recommend.retrieval.item_relations import FILE, import_links

    settings = load_settings(store=store)
    file = rules_file(settings).parent / FILE
    report = import_links(links, Catalogue.current(settings.store), file, (item, other, relation), by)
    print_result(json, report, render.imported_links)
    print_next(json, settings, "build")


@app.command()
def recommend(
    user: Annotated[str | None, typer.Argument(help="User to recommend for; optional with --item.")] = None,
    item: Annotated[list[str] | None, typer.Option(help="Id of an item clicked just now; repeatable.")] = None,
    filter_: Filter = None,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", help="Domain whose events count; repeatable.", show_default="all domains"),
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option(help="Domain of the items; repeatable.", show_default="all domains")
    ] = None,
    explain: Explain = False,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """Recommend items to a user."""
    from serve.engine.recommend_engine import restrict_to_domains
    from serve.engine.user_context import load_user_context
    from serve.storage.event_log import open_event_log

    settings = load_settings(store=store)
    conditions = restrict_to_domains(_read_filter(filter_), to or ())
    clicks = [{"item_id": item_id, "type": "click"} for item_id in item or ()]
    context = load_user_context(open_event_log(settings), settings, user, clicks)
    response = _respond(
        settings,
        lambda engine: engine.recommend(
            engine.events_in_domains(context.events, from_) if from_ else context.events,
            k,
            context.excluded_items,
            conditions,
            explain,
            explore=None if context.preferences.explore else False,
            blocked=context.preferences.blocked,
        ),
    )
    print_result(json, response, render.results)


@app.command()
def candidates(
    out_file: Annotated[
        Path, typer.Option("--out", help="Parquet file to write: user_id, item_id, place, score, score per retriever.")
    ],
    users: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Text file of user ids, one per line.", show_default="all users"
        ),
    ] = None,
    filter_: Filter = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=5000, help="Candidates per user.")] = 100,
    store: Store = None,
    json: Json = False,
) -> None:
    """Export candidates of many users."""
    from serve.jobs.export_candidates import write_candidates

    settings = load_settings(store=store)
    conditions = _read_filter(filter_)
    with bars(json) as progress:
        report = write_candidates(settings, out_file, users, k, conditions, progress)
    print_result(json, report, render.candidates_report)


@rules_app.command("check")
def rules_check(
    file: Annotated[Path | None, typer.Argument(help="File of rules.", show_default="rules.toml in the store")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Validate a file of rules.

    Lists the rules, and which of them are active now.
    """
    from time import time

    from serve.recommend.ranking.merchandising_rules import read_rules, rules_file
    from serve.recommend.retrieval.item_relations import FILE, read_relations

    settings = load_settings(store=store)
    path = file or rules_file(settings)
    rules = read_rules(path)
    read_relations(path.parent / FILE)
    listed = [{"name": rule.name, "do": rule.do, "holds": rule.is_active(time())} for rule in rules]
    print_result(json, listed, render.rules)


@rules_app.command("try")
def rules_try(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="File of rules; nothing is changed.")],
    user: Annotated[str, typer.Argument(help="User to recommend for.")],
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """Preview rules for a user."""
    from serve.engine.user_context import load_user_context
    from serve.recommend.ranking.merchandising_rules import read_rules
    from serve.storage.event_log import open_event_log

    settings = load_settings(store=store)
    read_rules(file)
    context = load_user_context(open_event_log(settings), settings, user)
    with_rules, without = (settings.model_copy(update={"rules": rules}) for rules in (file, Path(os.devnull)))
    responses = {
        name: _respond(
            variant,
            lambda engine: engine.recommend(
                context.events, k, context.excluded_items, explore=False, blocked=context.preferences.blocked
            ),
        )
        for name, variant in (("without", without), ("with", with_rules))
    }
    print_result(json, responses, render.rules_comparison)


def _respond(settings: Settings, find: Callable[[Any], Any]) -> dict[str, Any]:
    from serve.engine.response import local_hits_response
    from serve.live.replica import open_engine

    return local_hits_response(open_engine(settings), find)


def _personalization(settings: Settings, user: str | None, explain: bool) -> Any:
    """Return the context that personalizes a search; None without a user."""
    from serve.engine.user_context import PersonalizationContext, load_user_context
    from serve.storage.event_log import open_event_log

    if user is None:
        return None
    return PersonalizationContext.from_user(
        load_user_context(open_event_log(settings), settings, user), settings.personalization, explain
    )


def _read_filter(text: str | None) -> dict[str, Any]:
    try:
        conditions = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"invalid filter {text!r}: it is not JSON ({error})", "filter") from error
    if not isinstance(conditions, dict):
        raise BadRequest(f"invalid filter {text!r}: use a JSON object of conditions", "filter")
    return conditions
