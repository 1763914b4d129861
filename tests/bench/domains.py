"""Users with history in one domain only, recommended items of another: ml-100k, split into two domains by genre.

A movie is in the first domain if one of its genres is Action, Adventure, Sci-Fi, Thriller, War, Western, Horror, Crime,
Film-Noir or Mystery, else in the second. In each of three folds, all ratings of the second domain are removed for a
third of the users; towers and scorer are trained on everything else. These users then get recommendations from the
second domain: all of its items are ranked, the targets are the items that the user rated 4 or more, and the measure is
recall in the first 20.

Baselines: popularity (how many other users liked a movie, without learning), and `single_domain`, the same pipeline
trained on the second domain alone, where these users are unknown. Intervals are over users (bootstrap, 95 %).
"""

import csv
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from movies import DATA
from report import report
from rich.console import Console

from embed.behaviour import Event
from serve.cli import bars
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.evaluation.ranking_metrics import bootstrap_interval
from serve.jobs.build import build
from serve.jobs.train import train, train_scorer
from serve.live.replica import open_engine
from serve.storage.event_log import open_event_log

SEED, FOLDS, K, LIKED = 0, 3, 20, 4.0
FIRST = frozenset("Action Adventure Sci-Fi Thriller War Western Horror Crime Film-Noir Mystery".split())  # noqa: SIM905
OURS, POPULARITY, SINGLE = "ours", "popularity", "single_domain"


def main() -> None:
    movies, ratings = read()
    second = {movie["item_id"] for movie in movies if movie["domain"] == "second"}
    users = sorted({rating.user_id for rating in ratings})
    fold_of = dict(zip(users, np.random.default_rng(SEED).permutation(len(users)) % FOLDS, strict=True))
    recalls: dict[str, list[float]] = {OURS: [], POPULARITY: [], SINGLE: []}
    for fold in range(FOLDS):
        known = [each for each in ratings if fold_of[each.user_id] != fold or each.item_id not in second]
        right: dict[str, set[str]] = {}
        for each in ratings:
            if fold_of[each.user_id] == fold and each.item_id in second and (each.value or 0) >= LIKED:
                right.setdefault(each.user_id, set()).add(each.item_id)
        of_second = [each for each in known if each.item_id in second]
        counts = dict.fromkeys(second, 0)
        for each in of_second:
            counts[each.item_id] += (each.value or 0) >= LIKED
        popular = sorted(counts, key=lambda item: (-counts[item], item))[:K]
        with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
            ours = ranked(Path(folder) / "both", movies, known, sorted(right), progress)
            single = ranked(
                Path(folder) / "single", [m for m in movies if m["item_id"] in second], of_second, [""], progress
            )
        for user, items in right.items():
            for name, found in ((OURS, ours[user]), (POPULARITY, popular), (SINGLE, single[""])):
                recalls[name].append(len(items & set(found)) / len(items))
    figures: dict[str, float | int | str | None] = {
        "users": len(recalls[OURS]),
        "first_domain": len(movies) - len(second),
        "second_domain": len(second),
    }
    for name, values in recalls.items():
        low, high = bootstrap_interval(np.array(values), SEED)
        figures |= {f"{name}_recall20": round(float(np.mean(values)), 4), f"{name}_low": low, f"{name}_high": high}
    low, high = bootstrap_interval(np.array(recalls[OURS]) - np.array(recalls[POPULARITY]), SEED)
    figures |= {"ours_less_popularity_low": low, "ours_less_popularity_high": high}
    report("domains", figures, SEED, ("torch",))


def read() -> tuple[list[dict[str, Any]], list[Event]]:
    """Return the movies with their domain, and the ratings."""
    with (DATA / "catalog.csv").open(encoding="utf-8") as file:
        movies = [
            {
                "item_id": row["item_id"],
                "title": row["title"],
                "category": "Movies",
                "domain": "first" if FIRST & set(row["genres"].split()) else "second",
                "attributes": {"genre": row["genres"].split(), "year": [row["year"]]},
            }
            for row in csv.DictReader(file)
        ]
    with (DATA / "events.csv").open(encoding="utf-8") as file:
        ratings = [
            Event(str(number), row["user_id"], row["item_id"], "rating", float(row["timestamp"]), float(row["rating"]))
            for number, row in enumerate(csv.DictReader(file))
        ]
    return movies, ratings


def ranked(
    folder: Path, movies: list[dict[str, Any]], known: list[Event], users: list[str], progress: Progress
) -> dict[str, list[str]]:
    """Return the first K items of the second domain for each user, by the pipeline as a shop runs it."""
    folder.mkdir()
    (folder / "movies.jsonl").write_bytes(b"".join(orjson.dumps(movie) + b"\n" for movie in movies))
    settings = Settings(store=folder / "store", new_share=0.0)
    build(settings, folder / "movies.jsonl", progress=progress)
    log = open_event_log(settings)
    log.add(known)
    train(settings, progress)
    train_scorer(settings, progress)
    build(settings, progress=progress, force=True)
    engine = open_engine(settings)
    found = {
        user: [
            engine.snapshot.item_id(one.item_index)
            for one in engine.recommend(log.recent(user, 200), K, filter_={"domain": "second"}, explore=False)
        ]
        for user in users
    }
    log.close()
    Console(stderr=True).print(folder.name, len(movies), "movies,", len(known), "ratings")
    return found


if __name__ == "__main__":
    main()
