"""Measures the recommendations of a release before it is sealed: coverage, and the reference for drift."""

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Interactions
from serve.evaluation.replay import ReleaseReplay
from serve.recommend.ranking.drift import DriftReference
from serve.release.manifest import Quality

MAX_USERS = 200
MIN_USERS = 20
K = 10


def measure_release(replay: ReleaseReplay, interactions: Interactions) -> tuple[Quality | None, DriftReference | None]:
    """Measure the recommendations of a release to the latest active users.

    Returns:
        The coverage, and the distribution of features and scores; None where there are too few users.
    """
    latest = _latest_users(interactions)
    if len(latest) < MIN_USERS:
        return None, None
    moment = float(interactions.time.max()) + 1
    lists = [replay.recommend(user_id, K, moment) for user_id in interactions.users[latest].tolist()]
    items = np.unique(np.concatenate([ranked.items for ranked in lists]))
    quality = Quality(users=len(lists), coverage10=round(len(items) / replay.snapshot.items, 4))
    scorer, values, scores = replay.release.behaviour.scorer, [], []
    for ranked in lists:
        features = ranked.scored_features()
        if features is not None and ranked.output is not None:
            values.append(features.values)
            scores.append(ranked.output.total)
    if scorer is None or not values:
        return quality, None
    return quality, DriftReference.measure(scorer.layout, np.concatenate(values), np.concatenate(scores))


def _latest_users(interactions: Interactions) -> NDArray[np.int64]:
    """Return the indices of the users with the latest interactions."""
    latest = np.full(len(interactions.users), -np.inf)
    np.maximum.at(latest, interactions.user, interactions.time)
    return np.argsort(-latest, kind="stable")[: min(MAX_USERS, int(np.isfinite(latest).sum()))]
