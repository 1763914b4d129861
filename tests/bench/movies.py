"""A store of the ml-100k movies and ratings, shared by benchmarks: titles, genres and years; no images, no prices."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import orjson

from embed.behaviour import Event
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.jobs.build import build
from serve.jobs.import_events import import_events
from serve.storage.event_log import open_event_log

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "ml-100k"


def movie_store(folder: Path, progress: Progress | None = None, ratings: Sequence[Event] | None = None) -> Settings:
    """Build the store in `folder` and import all ratings, or those given; a rating of 4 or more is a liked item."""
    with (DATA / "catalog.csv").open(encoding="utf-8") as file, (folder / "movies.jsonl").open("wb") as feed:
        for row in csv.DictReader(file):
            item = {
                "item_id": row["item_id"],
                "title": row["title"],
                "category": "Movies",
                "attributes": {"genre": row["genres"].split(), "year": [row["year"]]},
            }
            feed.write(orjson.dumps(item, option=orjson.OPT_APPEND_NEWLINE))
    (folder / "ratings.toml").write_text('[columns]\nvalue = "rating"\n\n[defaults]\ntype = "rating"\n')
    settings = Settings(store=folder / "store")
    build(settings, folder / "movies.jsonl", progress=progress)
    if ratings is not None:
        log = open_event_log(settings)
        log.add(ratings)
        log.close()
        return settings
    import_events(settings, DATA / "events.csv", folder / "ratings.toml", progress)
    return settings
