"""Commands for campaigns: audiences, and texts for items."""

from pathlib import Path
from typing import Annotated

import typer

from serve.cli.render import campaigns as render
from serve.cli.terminal import Json, Store, app, bars, print_result
from serve.core.settings import load_settings


@app.command()
def audience(
    text: Annotated[str | None, typer.Argument(help="Text of a creative; optional with --item or --image.")] = None,
    item: Annotated[str | None, typer.Option(help="Id of an item.")] = None,
    image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="Photo of a creative.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Maximum number of users.")] = 100,
    campaign: Annotated[str, typer.Option(help="Name under which contacts are recorded and users held out.")] = "",
    cap_times: Annotated[
        int | None, typer.Option(min=1, help="Exclude users contacted so often in --cap-days.", show_default="no cap")
    ] = None,
    cap_days: Annotated[float, typer.Option(min=0, help="Days that the cap counts.")] = 7.0,
    holdout: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share of the audience to mark as held out, not to be contacted.")
    ] = 0.0,
    again: Annotated[bool, typer.Option("--again", help="Include users who interacted with the item already.")] = False,
    record: Annotated[bool, typer.Option("--record", help="Record the contacts, which count for later caps.")] = False,
    out_file: Annotated[Path | None, typer.Option("--out", help="Parquet file to write.", show_default="none")] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Select users for a campaign.

    They are the users most likely to interact with an item, or with what a creative shows.
    """
    from serve.campaigns.audience import AudienceFinder, AudienceQuery, FrequencyCap
    from serve.campaigns.audience_export import write_audience
    from serve.campaigns.user_table import UserTableCache
    from serve.live.replica import open_engine
    from serve.storage.erasure import UserPrivacy
    from serve.storage.event_log import open_event_log

    settings = load_settings(store=store)
    events = open_event_log(settings)
    privacy = UserPrivacy(events.database, settings.store)
    finder = AudienceFinder(events, privacy, UserTableCache(events, privacy, settings))
    cap = None if cap_times is None else FrequencyCap(cap_times, cap_days)
    photo = image.read_bytes() if image else None
    query = AudienceQuery(size, item, text, photo, campaign, cap, holdout, again)
    selected = finder.find(open_engine(settings), query)
    if out_file is not None:
        write_audience(out_file, selected, campaign)
    if record:
        finder.record(campaign, selected)
    events.close()
    print_result(json, selected, render.audience)


@app.command()
def copy(
    item_ids: Annotated[list[str] | None, typer.Argument(help="Ids of items.", show_default="all items")] = None,
    style: Annotated[str, typer.Option(help="Style of the texts: title, reason or ad.")] = "reason",
    language: Annotated[str, typer.Option(help="Language of the texts: en, de, fr, es or it.")] = "en",
    segment: Annotated[str, typer.Option(help="Segment of users to address.", show_default="none")] = "",
    out_file: Annotated[
        Path | None, typer.Option("--out", help="JSONL file to write, one text per line.", show_default="none")
    ] = None,
    store: Store = None,
    json: Json = False,
) -> None:
    """Write texts for items.

    A text states only what the catalogue says of its item.
    """
    from serve.jobs.write_copy import write_copies

    with bars(json) as progress:
        report = write_copies(load_settings(store=store), item_ids or (), style, language, segment, out_file, progress)
    print_result(json, report, render.copy_report)
