"""What a release shows when it is made: asked for the shoppers who were there last, before it is sealed."""

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Interactions
from serve.evaluation.replay import ReleaseReplay
from serve.recommend.ranking.drift import Reference
from serve.release.manifest import Quality

MAX_ASKED = 200  # shoppers
MIN_ASKED = 20
K = 10


def look(asked: ReleaseReplay, interactions: Interactions) -> tuple[Quality | None, Reference | None]:
    """What a release shows its last shoppers, and that as a reference; None of what cannot be told."""
    last = _last(interactions)
    if len(last) < MIN_ASKED:
        return None, None
    moment = float(interactions.time.max()) + 1
    lists = [asked.ranked(user_id, K, moment) for user_id in interactions.users[last].tolist()]
    shown = np.unique(np.concatenate([ranked.found.items for ranked in lists]))
    quality = Quality(users=len(lists), coverage10=round(len(shown) / asked.view.items, 4))
    scorer, values, scores = asked.release.behaviour.scorer, [], []
    for ranked in lists:
        if (seen := asked.ranker.seen(ranked)) is not None:
            values.append(seen[0])
            scores.append(seen[1])
    if scorer is None or not values:
        return quality, None
    return quality, Reference.of(scorer.layout, np.concatenate(values), np.concatenate(scores))


def _last(interactions: Interactions) -> NDArray[np.int64]:
    """The shoppers who did something last, by number."""
    latest = np.full(len(interactions.users), -np.inf)
    np.maximum.at(latest, interactions.user, interactions.time)
    return np.argsort(-latest, kind="stable")[: min(MAX_ASKED, int(np.isfinite(latest).sum()))]
