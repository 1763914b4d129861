"""`vetrina ope`: what a release would have earned on lists that were drawn, by serve.evaluation.off_policy.

Each list is asked for again, of the release in question, as of the moment it was given: by what the shopper had done
before. The release is taken to draw its lists as the settings say, from what it finds best. What came of a list is what
its shopper did with it within a day, worth what the shop's `head_values` say; what the release's own scorer expects is
the model of the doubly robust estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from serve.core.errors import BadRequest
from serve.core.settings import ExploreSettings, Settings
from serve.evaluation.off_policy import Estimates, LoggedList, estimate
from serve.evaluation.replay import ReleaseReplay
from serve.evaluation.rewards import RewardTable
from serve.recommend.ranking.exploration import WIDEST, propensities, taking_part
from serve.release.repository import open_release
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog, ImpressionRecord

DRAWN = "plackett_luce"
Progress = Callable[[str, float, float, str], None]


@dataclass(frozen=True)
class OffPolicyReport:
    """What is estimated of a release, and how many lists could not be used: of unknown propensities or nobody known."""

    release: str
    estimates: Estimates
    excluded: int


def judge(settings: Settings, name: str, progress: Progress | None = None) -> OffPolicyReport:
    """Raises NotFound without such a release, BadRequest where it has no scorer or no list was drawn."""
    release = open_release(settings.store, name)
    if release.behaviour.scorer is None:
        raise BadRequest(f"release {name} has no scorer, and so no scores to draw lists by", "release")
    events = open_event_log(settings)
    answers, outcomes = ImpressionLog(events.database), RewardTable(events, settings)
    asked = ReleaseReplay(release, settings, events)
    lists, excluded, total = [], 0, max(1, answers.last())
    for lot in answers.batches():
        for number, answer in lot:
            if answer.display.policy != DRAWN:
                continue
            logged = as_drawn(asked, answer, outcomes, settings.explore)
            excluded += logged is None
            if logged is not None:
                lists.append(logged)
            if progress:
                progress("ask again", number, total, "answers")
    events.close()
    if not lists:
        raise BadRequest("no list of a known shopper was drawn: set explore.share, and wait for clicks", "explore")
    return OffPolicyReport(name, estimate(lists), excluded)


def as_drawn(
    asked: ReleaseReplay, answer: ImpressionRecord, outcomes: RewardTable, explore: ExploreSettings
) -> LoggedList | None:
    """One list as the estimators take it; None where its propensities or its shopper are not known."""
    shown, k = answer.display, len(answer.display.items)
    if answer.user_id is None or not (shown.propensities > 0).all():  # NaN is not
        return None
    ranked = asked.ranked(answer.user_id, WIDEST * k, answer.timestamp)
    if ranked.scores is None:
        return None
    order = np.argsort(-ranked.scores.total, kind="stable")  # NaN, which the scorer did not see, comes last
    order = order[~np.isnan(ranked.scores.total[order])]
    scores, numbers = ranked.scores.total[order], ranked.found.items[order]
    part = taking_part(scores, k, explore.floor)
    place_of = {number: place for place, number in enumerate(numbers[:part].tolist())}
    where = [
        None if (number := asked.view.item_index(item_id)) is None else place_of.get(number) for item_id in shown.items
    ]
    other, predicted, expected = np.zeros(k), np.zeros(k), np.zeros(k)
    probability = scores[:part].astype(np.float64) ** (1 / explore.temperature)
    taken: list[int] = []
    for place, found in enumerate(where):
        rest = np.delete(np.arange(part), taken)
        if len(rest):
            expected[place] = probability[rest] / probability[rest].sum() @ scores[rest]
        if found is None:  # it would not have been shown: from here on this list says nothing
            break
        predicted[place] = scores[found]
        taken.append(found)
    if taken:
        other[: len(taken)] = propensities(scores[:part], np.array(taken, np.int64), explore.temperature)
    return LoggedList(shown.propensities.astype(np.float64), other, outcomes.reward(answer), predicted, expected)
