"""`vetrina off-policy`: estimates the reward of a release on explored lists, by serve.evaluation.off_policy.

The release ranks each list again as of the moment when it was shown, from the user's events before. The release is
assumed to explore as the settings say. The reward of a list are its user's interactions with it within a day, by the
setting `head_values`; the release's own scorer is the model of the doubly robust estimate.
"""

from dataclasses import dataclass

import numpy as np

from serve.core.errors import BadRequest
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.core.settings_sections import ExploreSettings
from serve.evaluation.off_policy import Estimates, LoggedList, estimate
from serve.evaluation.replay import ReleaseReplay
from serve.evaluation.rewards import RewardTable
from serve.recommend.ranking.exploration import MAX_ELIGIBLE, compute_propensities, count_eligible
from serve.release.repository import open_release
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog, ImpressionRecord

EXPLORED = "plackett_luce"


@dataclass(frozen=True)
class OffPolicyReport:
    """The estimates of a release, and how many lists were excluded: without propensities, or without a user."""

    release: str
    estimates: Estimates
    excluded: int


def estimate_release(settings: Settings, name: str, progress: Progress | None = None) -> OffPolicyReport:
    """Estimate the reward of a release on explored lists.

    Raises NotFound without such a release, BadRequest where it has no scorer or no list was explored.
    """
    release = open_release(settings.store, name)
    if release.behaviour.scorer is None:
        raise BadRequest(f"release {name} has no scorer, which exploration needs: run vetrina train scorer", "release")
    events = open_event_log(settings)
    impressions, rewards = ImpressionLog(events.database), RewardTable(events, settings)
    replay = ReleaseReplay(release, settings, events)
    lists, excluded, total = [], 0, max(1, impressions.last_sequence())
    for batch in impressions.batches():
        for sequence, record in batch:
            if record.shown.policy != EXPLORED:
                continue
            logged = logged_list(replay, record, rewards, settings.explore)
            excluded += logged is None
            if logged is not None:
                lists.append(logged)
            if progress:
                progress("replay lists", sequence, total, "lists")
    events.close()
    if not lists:
        raise BadRequest("no explored list of a known user: set explore.share, and wait for responses", "explore")
    return OffPolicyReport(name, estimate(lists), excluded)


def logged_list(
    replay: ReleaseReplay, record: ImpressionRecord, rewards: RewardTable, explore: ExploreSettings
) -> LoggedList | None:
    """Return a list as the estimators need it; None where its propensities or its user are unknown.

    Args:
        replay: the release to estimate.
        record: the list as it was shown.
        rewards: the rewards of shown lists.
        explore: how the release is assumed to explore.
    """
    shown, k = record.shown, len(record.shown.items)
    if record.user_id is None or not (shown.propensities > 0).all():  # also False for NaN
        return None
    ranked = replay.recommend(record.user_id, MAX_ELIGIBLE * k, record.timestamp)
    if ranked.output is None:
        return None
    order = np.argsort(-ranked.output.total, kind="stable")  # NaN, for items that were not scored, comes last
    order = order[~np.isnan(ranked.output.total[order])]
    scores, item_indices = ranked.output.total[order], ranked.items[order]
    eligible = count_eligible(scores, k, explore.min_relative_score)
    position_of = {item_index: position for position, item_index in enumerate(item_indices[:eligible].tolist())}
    positions = [
        None if (item_index := replay.snapshot.item_index(item_id)) is None else position_of.get(item_index)
        for item_id in shown.items
    ]
    other, predicted, expected = np.zeros(k), np.zeros(k), np.zeros(k)
    weights = scores[:eligible].astype(np.float64) ** (1 / explore.temperature)
    ranked_positions: list[int] = []
    for row, position in enumerate(positions):
        rest = np.delete(np.arange(eligible), ranked_positions)
        if len(rest):
            expected[row] = weights[rest] / weights[rest].sum() @ scores[rest]
        if position is None:  # the release would not show this item, so the rest of the list has no weight
            break
        predicted[row] = scores[position]
        ranked_positions.append(position)
    if ranked_positions:
        other[: len(ranked_positions)] = compute_propensities(
            scores[:eligible], np.array(ranked_positions, np.int64), explore.temperature
        )
    return LoggedList(shown.propensities.astype(np.float64), other, rewards.rewards(record), predicted, expected)
