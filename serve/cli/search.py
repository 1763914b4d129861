"""What is asked of a release: search, similar, recommend, candidates, rules."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from serve.cli.render import results as show
from serve.cli.terminal import Explain, Json, K, Spaces, Store, User, Where, app, bars, print_result, rules_app
from serve.core.errors import BadRequest
from serve.core.settings import Settings, load_settings


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="words to search for")] = None,
    image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="a photo to search for")] = None,
    like: Annotated[list[str] | None, typer.Option(help="an item to look like; repeat it for several")] = None,
    unlike: Annotated[list[str] | None, typer.Option(help="an item not to look like")] = None,
    filter_: Where = None,
    facet: Annotated[list[str] | None, typer.Option(help="a column or attribute to count; repeat it")] = None,
    space: Spaces = None,
    user: User = None,
    explain: Explain = False,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """Search by words, a photo, items to look like, or all of them together."""
    from serve.engine.query import Query
    from serve.engine.response import answer_search, respond
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
    found = respond(
        engine, lambda: answer_search(engine, query, _personalization(settings, user, explain), facets=facet or ())
    )
    print_result(json, found, show.search)


@app.command()
def similar(
    item_ids: Annotated[list[str], typer.Argument(help="one item id or several")],
    filter_: Where = None,
    space: Spaces = None,
    user: User = None,
    explain: Explain = False,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """Items like the given ones."""
    wanted, settings = _read_filter(filter_), load_settings(store=store)
    answer = _ask(
        settings,
        lambda engine: engine.similar(
            item_ids, k, space or (), wanted, personalization=_personalization(settings, user, explain)
        ),
    )
    print_result(json, answer, show.answer)


@app.command()
def related(
    item_id: Annotated[str, typer.Argument(help="an item's id")],
    relation: Annotated[str | None, typer.Option(help="one relation of the shop's table")] = None,
    kind: Annotated[str | None, typer.Option(help="complement, substitute or related")] = None,
    filter_: Where = None,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """What goes with an item, by the shop's own relations and what they imply."""
    from serve.engine.related_items import related as find_related

    wanted, settings = _read_filter(filter_), load_settings(store=store)
    answer = _ask(settings, lambda engine: find_related(engine, item_id, k, relation, kind, wanted))
    print_result(json, answer, show.answer)


@app.command()
def relations(
    links: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV or TSV of links between items")],
    item: Annotated[str, typer.Option(help="the column of one item")] = "item_id",
    other: Annotated[str, typer.Option(help="the column of the other")] = "related_id",
    relation: Annotated[str, typer.Option(help="the column of the relation; empty where all are related")] = "relation",
    by: Annotated[str, typer.Option(help="attribute by which they are named, as parent_sku, if not by id")] = "",
    store: Store = None,
    json: Json = False,
) -> None:
    """Take a merchandiser's links in; the next build knows them."""
    from embed.catalogue import Catalogue
    from serve.recommend.ranking.merchandising_rules import rules_file
    from serve.recommend.retrieval.item_relations import FILE, import_links

    settings = load_settings(store=store)
    into = rules_file(settings).parent / FILE
    found = import_links(links, Catalogue.current(settings.store), into, (item, other, relation), by)
    print_result(json, found, show.links)


@app.command()
def recommend(
    user: Annotated[str | None, typer.Argument(help="whose events count; without one, --item")] = None,
    item: Annotated[list[str] | None, typer.Option(help="an item clicked just now; repeat it for several")] = None,
    filter_: Where = None,
    from_: Annotated[list[str] | None, typer.Option("--from", help="only what was done in this domain")] = None,
    to: Annotated[list[str] | None, typer.Option(help="only items of this domain; repeat it for several")] = None,
    explain: Explain = False,
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """What a shopper will want next, by what was done so far."""
    from serve.engine.engine import in_domains
    from serve.engine.user_context import load_user_context
    from serve.storage.event_log import open_event_log

    settings = load_settings(store=store)
    wanted = in_domains(_read_filter(filter_), to or ())
    known = load_user_context(
        open_event_log(settings), settings, user, [{"item_id": of, "type": "click"} for of in item or ()]
    )
    answer = _ask(
        settings,
        lambda engine: engine.recommend(
            engine.done_in(known.events, from_) if from_ else known.events,
            k,
            known.excluded,
            wanted,
            explain,
            blocked=known.preferences.blocked,
        ),
    )
    print_result(json, answer, show.answer)


@app.command()
def candidates(
    out_file: Annotated[Path, typer.Option("--out", help="Parquet file: user_id, item_id, place, score, by source")],
    users: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="text file, one user a line; without it, all")
    ] = None,
    filter_: Where = None,
    k: Annotated[int, typer.Option("-k", min=1, max=5000, help="candidates of each user")] = 100,
    store: Store = None,
    json: Json = False,
) -> None:
    """Candidates of many users at once, in a file for other services."""
    from serve.jobs.export_candidates import write_candidates

    settings = load_settings(store=store)
    wanted = _read_filter(filter_)
    with bars(json) as progress:
        report = write_candidates(settings, out_file, users, k, wanted, progress)
    print_result(json, report, show.candidates_report)


@rules_app.command("check")
def rules_check(
    file: Annotated[Path | None, typer.Argument(help="without it, the rules of the store")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Whether a file of rules is right, and which of them hold now."""
    from time import time

    from serve.recommend.ranking.merchandising_rules import read_rules, rules_file
    from serve.recommend.retrieval.item_relations import FILE, read_relations

    settings = load_settings(store=store)
    path = file or rules_file(settings)
    rules = read_rules(path)
    read_relations(path.parent / FILE)
    listed = [{"name": rule.name, "do": rule.do, "holds": rule.holds(time())} for rule in rules]
    print_result(json, listed, show.rules)


@rules_app.command("try")
def rules_try(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="the rules to try; nothing is changed")],
    user: Annotated[str, typer.Argument(help="the shopper to try them on")],
    k: K = 10,
    store: Store = None,
    json: Json = False,
) -> None:
    """What a file of rules would change in a shopper's recommendations."""
    from serve.engine.user_context import load_user_context
    from serve.recommend.ranking.merchandising_rules import read_rules
    from serve.storage.event_log import open_event_log

    settings = load_settings(store=store)
    read_rules(file)
    known = load_user_context(open_event_log(settings), settings, user)
    with_rules, without = (settings.model_copy(update={"rules": rules}) for rules in (file, Path(os.devnull)))
    answers = {
        name: _ask(of, lambda engine: engine.recommend(known.events, k, known.excluded))
        for name, of in (("without", without), ("with", with_rules))
    }
    print_result(json, answers, show.rules_tried)


def _ask(settings: Settings, question: Callable[[Any], Any]) -> dict[str, Any]:
    from serve.engine.response import ask
    from serve.live.replica import open_engine

    return ask(open_engine(settings), question)


def _personalization(settings: Settings, user: str | None, explain: bool) -> Any:
    """For whom a search is; None for nobody in particular."""
    from serve.engine.engine import PersonalizationContext
    from serve.engine.user_context import load_user_context
    from serve.storage.event_log import open_event_log

    if user is None:
        return None
    return PersonalizationContext.of(
        load_user_context(open_event_log(settings), settings, user), settings.personalization, explain
    )


def _read_filter(text: str | None) -> dict[str, Any]:
    try:
        found = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"filter is not JSON: {error}", "filter") from error
    if not isinstance(found, dict):
        raise BadRequest(f"filter is {text}: give an object of conditions", "filter")
    return found
