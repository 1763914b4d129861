"""Campaigns: audiences of items and creatives, and copy for items."""

from pathlib import Path
from typing import Annotated

import typer

from serve.cli.render import results as show
from serve.cli.terminal import Json, Store, app, bars, print_result
from serve.core.settings import load_settings


@app.command()
def audience(
    text: Annotated[str | None, typer.Argument(help="what a creative says; or give --item")] = None,
    item: Annotated[str | None, typer.Option(help="an item's id")] = None,
    image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="a creative's photo")] = None,
    size: Annotated[int, typer.Option(min=1, help="how many shoppers, at most")] = 100,
    campaign: Annotated[str, typer.Option(help="what contacts are put down to, and hold-outs are drawn by")] = "",
    cap_times: Annotated[
        int | None, typer.Option(min=1, help="who was reached so often in --cap-days is left out")
    ] = None,
    cap_days: Annotated[float, typer.Option(min=0, help="days that caps look back")] = 7.0,
    holdout: Annotated[float, typer.Option(min=0, max=0.5, help="share that is told apart, not to be reached")] = 0.0,
    again: Annotated[bool, typer.Option("--again", help="also who did something to the item already")] = False,
    record: Annotated[
        bool, typer.Option("--record", help="it reaches them: that counts for the caps of later ones")
    ] = False,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Parquet file: user_id, score, chance, held_out")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """The shoppers most likely to want an item, or what a creative shows."""
    from serve.campaigns.audience import AudienceQuery, Audiences, Cap
    from serve.campaigns.audience_export import write_audience
    from serve.campaigns.user_table import UserTableCache
    from serve.live.replica import open_engine
    from serve.storage.erasure import UserPrivacy
    from serve.storage.event_log import open_event_log

    settings = load_settings(store=store)
    events = open_event_log(settings)
    rights = UserPrivacy(events.database, settings.store)
    audiences = Audiences(events, rights, UserTableCache(events, rights, settings))
    cap = None if cap_times is None else Cap(cap_times, cap_days)
    photo = image.read_bytes() if image else None
    found = audiences.find(open_engine(settings), AudienceQuery(size, item, text, photo, campaign, cap, holdout, again))
    if out_file is not None:
        write_audience(out_file, found, campaign)
    if record:
        audiences.record(campaign, found)
    events.close()
    print_result(json, found, show.audience)


@app.command()
def copy(
    item_ids: Annotated[list[str] | None, typer.Argument(help="items; without any, all")] = None,
    style: Annotated[str, typer.Option(help="title, reason or ad")] = "reason",
    language: Annotated[str, typer.Option(help="en, de, fr, es or it")] = "en",
    segment: Annotated[str, typer.Option(help="the shoppers it speaks to")] = "",
    out_file: Annotated[Path | None, typer.Option("--out", help="JSONL file, one text a line")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Short texts for items that state nothing which the catalogue does not have."""
    from serve.jobs.write_copy import write_copies

    with bars(json) as progress:
        found = write_copies(load_settings(store=store), item_ids or (), style, language, segment, out_file, progress)
    print_result(json, found, show.copies)
