"""`vetrina ope`: what a release would have earned on lists that were drawn, by serve.evaluation.ope.

Each list is asked for again, of the release in question, as of the moment it was given: by what the shopper had done
before. The release is taken to draw its lists as the settings say, from what it finds best. What came of a list is what
its shopper did with it within a day, worth what the shop's `head_values` say; what the release's own scorer expects is
the model of the doubly robust estimate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.errors import BadRequest
from serve.evaluation.ope import Estimates, Logged, estimate
from serve.learn.answer_store import Answer, AnswerStore
from serve.learn.event_store import EventStore, open_event_store
from serve.learn.known import MOST_RECENT, left_out_of
from serve.rank.explore import WIDEST, propensities, taking_part
from serve.rank.features import FeatureMaker
from serve.rank.ranker import Ranker
from serve.rank.shown import ACTS, HORIZON
from serve.recommend.recommender import Recommender
from serve.recommend.shopper import Shopper
from serve.release import Release, open_release
from serve.settings import Settings
from serve.view import View

Acts = dict[str, list[tuple[str, str, str, float]]]
"""User, item, type and time of what was done, by request."""
DRAWN = "plackett_luce"
Progress = Callable[[str, float, float, str], None]


@dataclass(frozen=True)
class Judgement:
    """What is estimated of a release, and how many lists could not be used: of unknown propensities or nobody known."""

    release: str
    estimates: Estimates
    left_out: int


def judge(settings: Settings, name: str, progress: Progress | None = None) -> Judgement:
    """Raises NotFound without such a release, BadRequest where it has no scorer or no list was drawn."""
    release = open_release(settings.store, name)
    if release.behaviour.scorer is None:
        raise BadRequest(f"release {name} has no scorer, and so no scores to draw lists by", "release")
    events = open_event_store(settings)
    answers = AnswerStore(events.database)
    judged = _Judged(release, settings)
    acts = _acts(events)
    lists, left_out, total = [], 0, max(1, answers.last())
    for lot in answers.batches():
        for number, answer in lot:
            if answer.display.policy != DRAWN:
                continue
            logged = None if answer.user_id is None else judged.list_of(answer, events, acts)
            left_out += logged is None
            if logged is not None:
                lists.append(logged)
            if progress:
                progress("ask again", number, total, "answers")
    events.close()
    if not lists:
        raise BadRequest("no list of a known shopper was drawn: set explore.share, and wait for clicks", "explore")
    return Judgement(name, estimate(lists), left_out)


class _Judged:
    """A release without live changes, asked as of moments of the past."""

    def __init__(self, release: Release, settings: Settings) -> None:
        view, behaviour = View(release), release.behaviour
        spaces = dict(view.spaces) | ({"tower": view.tower} if view.tower is not None else {})
        weights = {space: settings.space_weights.get(space, 1.0) for space in view.spaces}
        blend = behaviour.facts.blend.scaled(settings.source_weights)
        sources = behaviour.sources(spaces, release.samples, weights)
        wanted = {name: source for name, source in sources.items() if blend.weights.get(name, 0) > 0}
        maker = FeatureMaker(spaces, view.facts_of, behaviour.covisitation, behaviour.facts.blend.floors)
        recommender = Recommender(wanted, blend, view.items)
        self._view, self._settings = view, settings
        self._ranker = Ranker(recommender, maker, behaviour.scorer, settings.head_values)

    def list_of(self, answer: Answer, events: EventStore, acts: Acts) -> Logged | None:
        """One list as the estimators take it; None where its propensities are not known."""
        shown, explore = answer.display, self._settings.explore
        if not (shown.propensities > 0).all():  # NaN is not
            return None
        assert answer.user_id is not None  # noqa: S101
        before = events.recent(answer.user_id, MOST_RECENT, impressions=False, before=answer.timestamp)
        shopper = Shopper.from_events(before, self._view.number, self._settings.signal)
        left = [self._view.number(item_id) for item_id in left_out_of(before, self._settings)]
        k = len(shown.items)
        barred = np.unique(np.array([number for number in left if number is not None], np.int64))
        ranked = self._ranker.recommend(shopper, WIDEST * k, barred, answer.timestamp)
        if ranked.scores is None:
            return None
        scored = ~np.isnan(ranked.scores.total)
        scores, numbers = ranked.scores.total[scored], ranked.found.items[scored]
        part = taking_part(scores, k, explore.floor)
        place_of = {number: place for place, number in enumerate(numbers[:part].tolist())}
        where = [None if number is None else place_of.get(number) for number in map(self._view.number, shown.items)]
        other, foretold, expected = np.zeros(k), np.zeros(k), np.zeros(k)
        chance = scores[:part].astype(np.float64) ** (1 / explore.temperature)
        taken: list[int] = []
        for place in range(k):
            rest = np.delete(np.arange(part), taken)
            if len(rest):
                expected[place] = chance[rest] / chance[rest].sum() @ scores[rest]
            found = where[place]
            if found is None:  # it would not have been shown: from here on this list says nothing
                break
            foretold[place] = scores[found]
            taken.append(found)
        order = np.array(taken, np.int64)
        if taken:
            other[: len(taken)] = propensities(scores[:part], order, explore.temperature)
        return Logged(shown.propensities.astype(np.float64), other, self._reward(answer, acts), foretold, expected)

    def _reward(self, answer: Answer, acts: Acts) -> NDArray[np.float64]:
        """What came of each place."""
        came = {
            (item_id, head)
            for user_id, item_id, type_, time in acts.get(answer.request_id, ())
            if user_id == answer.user_id and 0 <= time - answer.timestamp <= HORIZON
            for head, of in ACTS.items()
            if type_ in of
        }
        values = self._settings.head_values
        return np.array([sum(values.get(h, 0.0) for i, h in came if i == item_id) for item_id in answer.display.items])


def _acts(events: EventStore) -> Acts:
    """What was done with each answer."""
    found: Acts = {}
    for _, event in events.acts(0, 0.0):
        found.setdefault(event.request_id or "", []).append((event.user_id, event.item_id, event.type, event.timestamp))
    return found
