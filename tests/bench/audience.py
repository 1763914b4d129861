"""Audience of a movie: which users will like it, on ml-100k, compared with how much each user rates.

A tenth of the movies with 20 or more likes are cold: none of their ratings are in the training data. Another tenth are
warm: half of their ratings are removed, for random users. The measure of a movie is the area under the ROC curve (AUC)
over all users who did not rate it in the training data. A user is positive if a removed rating is 4 or more. Users are
ordered as `vetrina audience` orders them; the baseline is the number of ratings of each user. Intervals are over movies
(bootstrap, 95 %). The towers know titles, genres and years of all movies.

Then 100 users opt out, and the function that the service uses is called 10,000 times. The result is how often an
opted-out user is in a response.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from movies import DATA, movie_store
from report import report
from rich.console import Console
from rich.progress import track
from sklearn.metrics import roc_auc_score

from embed.behaviour import Event
from serve.campaigns.audience import AudienceFinder, AudienceQuery
from serve.campaigns.user_table import UserTableCache
from serve.cli import bars
from serve.core.settings import Settings
from serve.evaluation.ranking_metrics import bootstrap_interval
from serve.jobs.build import build
from serve.jobs.train import train
from serve.live.replica import open_engine
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import open_event_log
from serve.storage.preferences import Preferences

SEED, LIKED, MIN_LIKES, SHARE, CALLS, OPTED_OUT = 0, 4.0, 20, 10, 10_000, 100


def main() -> None:
    random = np.random.default_rng(SEED)
    with (DATA / "events.csv").open(encoding="utf-8") as file:
        ratings = [
            Event(str(number), row["user_id"], row["item_id"], "rating", float(row["timestamp"]), float(row["rating"]))
            for number, row in enumerate(csv.DictReader(file))
        ]
    likes: dict[str, set[str]] = {}
    for each in ratings:
        if (each.value or 0) >= LIKED:
            likes.setdefault(each.item_id, set()).add(each.user_id)
    popular = sorted(item for item, users in likes.items() if len(users) >= MIN_LIKES)
    chosen = random.permutation(popular)
    count = len(popular) // SHARE
    cold, warm = set(chosen[:count]), set(chosen[count : 2 * len(popular) // SHARE])
    users = sorted({each.user_id for each in ratings})
    removed = {(item, user) for item in sorted(warm) for user in users if random.random() < 0.5}
    known = [each for each in ratings if each.item_id not in cold and (each.item_id, each.user_id) not in removed]
    with tempfile.TemporaryDirectory() as folder, bars(quiet=False) as progress:
        settings = movie_store(Path(folder), progress, known)
        train(settings, progress)
        build(settings, progress=progress)
        figures = measure(settings, likes, known, cold, warm)
    report("audience", figures, SEED, ("torch", "scikit-learn"))


def measure(
    settings: Settings, likes: dict[str, set[str]], known: list[Event], cold: set[str], warm: set[str]
) -> dict[str, float | int | str | None]:
    """Return the AUC of cold and warm movies with intervals, and how often an opted-out user was in an audience."""
    events = open_event_log(settings)
    rights = UserPrivacy(events.database, settings.store)
    audiences, engine = AudienceFinder(events, rights, UserTableCache(events, rights, settings)), open_engine(settings)
    counts: dict[str, int] = {}
    raters: dict[str, set[str]] = {}
    for each in known:
        counts[each.user_id] = counts.get(each.user_id, 0) + 1
        raters.setdefault(each.item_id, set()).add(each.user_id)
    figures: dict[str, float | int | str | None] = {"cold_items": len(cold), "warm_items": len(warm)}
    for name, items in (("cold_", cold), ("", warm)):
        ours, baseline = [], []
        for item in track(sorted(items), name or "warm", console=Console(stderr=True)):
            found = audiences.find(engine, AudienceQuery(100_000, item_id=item))
            members = [member.user_id for member in found.members if member.user_id not in raters.get(item, ())]
            right = np.array([user in likes[item] for user in members])
            if not right.any() or right.all():
                continue
            probabilities = {member.user_id: member.probability for member in found.members}
            ours.append(roc_auc_score(right, [probabilities[user] for user in members]))
            baseline.append(roc_auc_score(right, [counts[user] for user in members]))
        for label, values in (("auc", ours), ("baseline_auc", baseline)):
            low, high = bootstrap_interval(np.array(values), SEED)
            figures |= {
                f"{name}{label}": round(float(np.mean(values)), 4),
                f"{name}{label}_low": low,
                f"{name}{label}_high": high,
            }
        low, high = bootstrap_interval(np.array(ours) - np.array(baseline), SEED)
        figures |= {f"{name}gain_low": low, f"{name}gain_high": high}
    all_users = sorted(counts)
    opted_out = set(np.random.default_rng(SEED).permutation(all_users)[:OPTED_OUT].tolist())
    for user in opted_out:
        rights.set_preferences(user, Preferences(marketing=False))
    items, seen = sorted(likes), 0
    for call in track(range(CALLS), "opted out", console=Console(stderr=True)):
        found = audiences.find(engine, AudienceQuery(200, item_id=items[call % len(items)]))
        seen += sum(member.user_id in opted_out for member in found.members)
    events.close()
    return figures | {"calls": CALLS, "opted_out_seen": seen}


if __name__ == "__main__":
    main()
