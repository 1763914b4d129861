"""The gate: whether a release is good enough to take the place of another.

What both were made without is what they are compared on, in one run and as they would have answered: what shoppers did
after the last act that either knows. Of that

- **ranking**: NDCG@10 of what shoppers went on to like, all items ranked;
- **calibration**: the likelihood of what came of lists that were shown, and the calibration error of clicks;
- **off-policy**: the doubly robust estimate of what lists earn that were drawn (serve.evaluation.off_policy).

A release that was just built knows everything, so that there is nothing of the kind. Then what its parts measured when
they were trained, each on its own held-out shoppers, is held against what those of the other release did.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import collect, split_at
from serve.core.ranking_settings import HEADS
from serve.core.settings import Settings
from serve.evaluation.off_policy import LoggedList, estimate, gain
from serve.evaluation.off_policy_report import DRAWN, as_drawn
from serve.evaluation.ranking_metrics import K, interval, lift
from serve.evaluation.replay import ReleaseReplay
from serve.evaluation.rewards import RewardTable
from serve.recommend.ranking.impressions import read_impressions
from serve.release.manifest import Check
from serve.release.release import Release
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog, with_impressions
from serve.training.scorer_validation import calibration_error

MAX_ASKED = 500  # shoppers, lists and drawn lists that a release is asked for again
FEWEST = 20  # of them, below which nothing is said
MIN_EFFECTIVE = 10.0  # drawn lists
SEED = 0
Progress = Callable[[str, float, float, str], None]


def compare(settings: Settings, release: Release, parent: Release, progress: Progress | None = None) -> list[Check]:
    """How a release measures beside the one whose place it would take."""
    events = open_event_log(settings)
    try:
        sides = ReleaseReplay(release, settings, events), ReleaseReplay(parent, settings, events)
        since = max(release.history_until, parent.history_until)
        checks: list[Check] = []
        if events.happened_since(since):
            checks += _ranking(settings, events, sides, since, progress)
            checks += _calibration(settings, events, sides, since, progress)
            checks += _drawn(settings, events, sides, since, progress)
    finally:
        events.close()
    return [*_recall(settings, release, parent), *(checks or _recorded(settings, release, parent))]


def _ranking(
    settings: Settings,
    events: EventLog,
    sides: tuple[ReleaseReplay, ReleaseReplay],
    since: float,
    progress: Progress | None,
) -> Iterator[Check]:
    release, _ = sides
    ids = release.release.catalogue.ids()
    interactions, _ = collect((batch for _, batch in events.batches()), ids, settings.signal)
    held = split_at(interactions, since, np.inf).validation.some(MAX_ASKED, SEED)
    if len(held) < FEWEST:
        return
    ranked = [np.full((len(held), K), -1, np.int64) for _ in sides]
    for row, user_id in enumerate(held.history.users.tolist()):
        for side, rows in zip(sides, ranked, strict=True):
            found = side.ranked(user_id, K, since).found.items.tolist()
            item_indices = [release.view.item_index(side.view.text(number)) for number in found]
            rows[row, : len(item_indices)] = [-1 if number is None else number for number in item_indices]
        _tell(progress, "compare lists", row + 1, len(held))
    gained, low, high = lift(ranked[0], ranked[1], held, SEED)
    of_parent, *_ = lift(ranked[1], np.full_like(ranked[1], -1), held, SEED)
    yield _check("NDCG@10", of_parent, gained, low, high, len(held), settings)


def _calibration(
    settings: Settings,
    events: EventLog,
    sides: tuple[ReleaseReplay, ReleaseReplay],
    since: float,
    progress: Progress | None,
) -> Iterator[Check]:
    scorers = [side.release.behaviour.scorer for side in sides]
    if scorers[0] is None or scorers[1] is None:
        return
    heads = [head for head in scorers[1].facts.heads if head in scorers[0].facts.heads]
    if not heads:
        return
    ids = sides[0].release.catalogue.ids()
    answers = ImpressionLog(events.database)
    lists = read_impressions(with_impressions(events, answers, since), ids, settings.signal, since)
    chosen = np.random.default_rng(SEED).permutation(len(lists))[:MAX_ASKED]
    losses: list[list[float]] = [[], []]
    truths: list[NDArray[np.bool_]] = []
    told: list[list[NDArray[np.float32]]] = [[], []]
    for done, number in enumerate(np.sort(chosen).tolist(), start=1):
        rows = slice(lists.starts[number], lists.starts[number + 1])
        items, first = np.unique(lists.item[rows], return_index=True)
        places = np.nan_to_num(lists.position[rows][first])
        truth = lists.labels[rows][first][:, [HEADS.index(head) for head in heads]]
        found = [
            _probabilities(side, sides[0], lists.users[number], items, places, float(lists.times[number]), heads)
            for side in sides
        ]
        if any(of is None for of in found):
            continue
        truths.append(truth)
        for of, loss, each in zip(found, losses, told, strict=True):
            assert of is not None  # noqa: S101
            each.append(of)
            loss.append(float(-np.log(np.clip(np.where(truth, of, 1 - of), 1e-6, 1)).sum(1).mean()))
        _tell(progress, "compare odds", done, len(chosen))
    if len(truths) < FEWEST:
        return
    ours, theirs = np.array(losses[0]), np.array(losses[1])
    low, high = interval(theirs - ours, SEED)  # so that more is better, as everywhere
    yield _check("log-likelihood", -theirs.mean(), (theirs - ours).mean(), low, high, len(truths), settings)
    truth = np.concatenate(truths)[:, 0]
    error, of_parent = (calibration_error(truth, np.concatenate(each)[:, 0]) for each in told)
    yield Check(
        name=f"calibration error of {heads[0]}",
        parent=round(of_parent, 4),
        release=round(error, 4),
        cases=len(truth),
        worse=error > of_parent + settings.gate.calibration,
    )


def _probabilities(
    side: ReleaseReplay,
    numbered: ReleaseReplay,
    user_id: str,
    items: NDArray[np.int64],
    places: NDArray[np.float32],
    moment: float,
    heads: list[str],
) -> NDArray[np.float32] | None:
    """What a side says of items under another's numbers, [m, heads]; None where it does not know one of them."""
    own = [side.view.item_index(numbered.view.text(number)) for number in items.tolist()]
    if any(number is None for number in own):
        return None
    item_indices = np.array(own, np.int64)
    order = np.argsort(item_indices)
    found = side.probabilities(user_id, item_indices[order], places[order], moment)
    scorer = side.release.behaviour.scorer
    if found is None or scorer is None:
        return None
    back = np.empty_like(found)
    back[order] = found
    known = list(scorer.facts.heads)
    return back[:, [known.index(head) for head in heads]]


def _drawn(
    settings: Settings,
    events: EventLog,
    sides: tuple[ReleaseReplay, ReleaseReplay],
    since: float,
    progress: Progress | None,
) -> Iterator[Check]:
    if any(side.release.behaviour.scorer is None for side in sides):
        return
    outcomes = RewardTable(events, settings, since)
    pairs: list[tuple[LoggedList, LoggedList]] = []
    for lot in ImpressionLog(events.database).batches(since=since):
        for _, answer in lot:
            if answer.display.policy != DRAWN or len(pairs) == MAX_ASKED:
                continue
            logged = [as_drawn(side, answer, outcomes, settings.explore) for side in sides]
            if logged[0] is not None and logged[1] is not None:
                pairs.append((logged[0], logged[1]))
                _tell(progress, "compare drawn", len(pairs), MAX_ASKED)
    if len(pairs) < FEWEST:
        return
    ours, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
    of_parent = estimate(theirs, SEED)
    if min(estimate(ours, SEED).effective, of_parent.effective) < MIN_EFFECTIVE:
        return
    gained = gain(ours, theirs, SEED)
    name = "worth of drawn lists (DR)"
    yield _check(name, of_parent.dr.mean, gained.mean, gained.low, gained.high, len(pairs), settings)


def _recall(settings: Settings, release: Release, parent: Release) -> Iterator[Check]:
    for name, index in release.manifest.indexes.items():
        before = parent.manifest.indexes.get(name)
        if before is not None and index.recall10 != before.recall10:
            least = min(before.recall10, settings.recall_target) - settings.gate.recall
            yield _told(f"recall@10 of {name}", before.recall10, index.recall10, least)


def _recorded(settings: Settings, release: Release, parent: Release) -> Iterator[Check]:
    """What towers and scorer measured when they were made, where they are not the same."""
    kept = 1 - settings.gate.recorded
    ours, theirs = release.behaviour.towers, parent.behaviour.towers
    if ours is not None and theirs is not None and ours.fingerprint != theirs.fingerprint:
        now, before_ = (float(towers.facts["validation"]["ndcg10"]) for towers in (ours, theirs))
        yield _told("NDCG@10 of the towers, when trained", before_, now, kept * before_)
    scorer, other = release.behaviour.scorer, parent.behaviour.scorer
    if scorer is not None and other is not None and scorer.fingerprint != other.fingerprint:
        for head, facts in scorer.facts.heads.items():
            if head in other.facts.heads:
                was = other.facts.heads[head].auc
                # An AUC of few outcomes is not known well: twice its standard error is forgiven.
                error = np.sqrt(facts.auc * (1 - facts.auc) / max(1, facts.outcomes))
                yield _told(f"AUC of {head}, when trained", was, facts.auc, 0.5 + kept * (was - 0.5) - 2 * error)


def _told(name: str, of_parent: float, of_release: float, least: float) -> Check:
    worse = of_release < round(least, 6)
    return Check(name=name, parent=round(of_parent, 4), release=round(of_release, 4), worse=worse)


def _check(
    name: str, of_parent: float, gained: float, low: float, high: float, cases: int, settings: Settings
) -> Check:
    """Worse where it is surely so, or by more than the margin."""
    return Check(
        name=name,
        parent=round(float(of_parent), 4),
        release=round(float(of_parent + gained), 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        cases=cases,
        worse=bool(high < 0 or gained < -settings.gate.margin * abs(of_parent)),
    )


def _tell(progress: Progress | None, stage: str, done: int, total: int) -> None:
    if progress:
        progress(stage, done, total, "lists")
