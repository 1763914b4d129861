"""The release gate: checks whether a release may replace its parent.

Both are compared on the events after the last event that either was made with, in one run and as each would have
responded at the time. The checks are

- **ranking**: NDCG@10 of the items that users liked, with all items ranked;
- **calibration**: the likelihood of the interactions with shown lists, and the calibration error of the first head;
- **off-policy**: the doubly robust estimate of the reward of explored lists (serve.evaluation.off_policy).

A release that was just built was made with all events, so there are none after it. Then the metrics of its towers and
scorer are compared, which each measured on its own held-out users when it was trained. Encoders that changed are
compared by the build (serve.evaluation.encoder_comparison).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import collect_interactions, split_at
from serve.core.progress import Progress
from serve.core.ranking_settings import HEADS
from serve.core.settings import Settings
from serve.evaluation.off_policy import LoggedList, estimate, estimate_gain
from serve.evaluation.off_policy_report import EXPLORED, logged_list
from serve.evaluation.ranking_metrics import K, bootstrap_interval, ndcg_lift
from serve.evaluation.replay import ReleaseReplay
from serve.evaluation.rewards import RewardTable
from serve.recommend.ranking.impressions import read_impressions
from serve.release.manifest import Check
from serve.release.release import Release
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog, events_with_impressions
from serve.training.scorer_validation import calibration_error

MAX_CASES = 500  # users, lists and explored lists that are replayed
MIN_CASES = 20  # of them, below which a check is skipped
MIN_EFFECTIVE = 10.0  # effective sample size of explored lists
SEED = 0


def compare_releases(
    settings: Settings, release: Release, parent: Release, progress: Progress | None = None
) -> list[Check]:
    """Compare a release with the one that it would replace.

    Args:
        settings: the store and its settings.
        release: the new release.
        parent: the release that it would replace.
        progress: called with the progress of each stage.
    """
    events = open_event_log(settings)
    try:
        replay, parent_replay = ReleaseReplay(release, settings, events), ReleaseReplay(parent, settings, events)
        since = max(release.history_until, parent.history_until)
        checks: list[Check] = []
        if events.has_events_since(since):
            comparison = _Comparison(settings, events, replay, parent_replay, since, progress)
            checks = [*comparison.ranking(), *comparison.calibration(), *comparison.off_policy()]
    finally:
        events.close()
    return [*_index_recall(settings, release, parent), *(checks or _training_metrics(settings, release, parent))]


@dataclass(frozen=True)
class _Comparison:
    """A release and its parent on the events since a moment (epoch seconds)."""

    settings: Settings
    events: EventLog
    replay: ReleaseReplay
    parent_replay: ReleaseReplay
    since: float
    progress: Progress | None

    @property
    def _replays(self) -> tuple[ReleaseReplay, ReleaseReplay]:
        return self.replay, self.parent_replay

    def ranking(self) -> Iterator[Check]:
        """Compare NDCG@10 of the items that users liked."""
        ids = self.replay.release.catalogue.ids()
        batches = (batch for _, batch in self.events.batches())
        interactions, _ = collect_interactions(batches, ids, self.settings.signal)
        holdout = split_at(interactions, self.since, np.inf).validation.sample(MAX_CASES, SEED)
        if len(holdout) < MIN_CASES:
            return
        rankings = [np.full((len(holdout), K), -1, np.int64) for _ in self._replays]
        for row, user_id in enumerate(holdout.history.users.tolist()):
            for replay, ranked in zip(self._replays, rankings, strict=True):
                recommended = replay.recommend(user_id, K, self.since).items.tolist()
                item_indices = [self.replay.snapshot.item_index(replay.snapshot.item_id(each)) for each in recommended]
                ranked[row, : len(item_indices)] = [-1 if each is None else each for each in item_indices]
            self._report("compare rankings", row + 1, len(holdout))
        gain, low, high = ndcg_lift(rankings[0], rankings[1], holdout, SEED)
        parent, *_ = ndcg_lift(rankings[1], np.full_like(rankings[1], -1), holdout, SEED)
        yield _gain_check("NDCG@10", parent, (gain, low, high), len(holdout), self.settings)

    def calibration(self) -> Iterator[Check]:
        """Compare the likelihood of the interactions with shown lists, and the calibration error of the first head."""
        scorers = [replay.release.behaviour.scorer for replay in self._replays]
        if scorers[0] is None or scorers[1] is None:
            return
        heads = [head for head in scorers[1].metadata.heads if head in scorers[0].metadata.heads]
        if not heads:
            return
        ids = self.replay.release.catalogue.ids()
        impressions = events_with_impressions(self.events, ImpressionLog(self.events.database), self.since)
        lists = read_impressions(impressions, ids, self.settings.signal, self.since)
        sample = np.random.default_rng(SEED).permutation(len(lists))[:MAX_CASES]
        losses: list[list[float]] = [[], []]
        labels: list[NDArray[np.bool_]] = []
        predicted: list[list[NDArray[np.float32]]] = [[], []]
        for done, number in enumerate(np.sort(sample).tolist(), start=1):
            rows = slice(lists.starts[number], lists.starts[number + 1])
            items, first = np.unique(lists.item[rows], return_index=True)
            positions = np.nan_to_num(lists.position[rows][first])
            user_id, moment = lists.users[number], float(lists.times[number])
            probabilities = [
                self._probabilities(replay, user_id, items, positions, moment, heads) for replay in self._replays
            ]
            if any(each is None for each in probabilities):
                continue
            label = lists.labels[rows][first][:, [HEADS.index(head) for head in heads]]
            labels.append(label)
            for each, all_losses, all_predicted in zip(probabilities, losses, predicted, strict=True):
                assert each is not None  # noqa: S101
                all_predicted.append(each)
                likelihood = np.clip(np.where(label, each, 1 - each), 1e-6, 1)
                all_losses.append(float(-np.log(likelihood).sum(1).mean()))
            self._report("compare probabilities", done, len(sample))
        if len(labels) < MIN_CASES:
            return
        loss, parent_loss = np.array(losses[0]), np.array(losses[1])
        low, high = bootstrap_interval(parent_loss - loss, SEED)  # of the likelihood: more is better
        gain = float((parent_loss - loss).mean()), low, high
        yield _gain_check("log-likelihood", -parent_loss.mean(), gain, len(labels), self.settings)
        first_head = np.concatenate(labels)[:, 0]
        error, parent_error = (calibration_error(first_head, np.concatenate(each)[:, 0]) for each in predicted)
        yield Check(
            name=f"calibration error of {heads[0]}",
            parent=round(parent_error, 4),
            release=round(error, 4),
            cases=len(first_head),
            worse=error > parent_error + self.settings.gate.calibration,
        )

    def off_policy(self) -> Iterator[Check]:
        """Compare the estimated reward of explored lists."""
        if any(replay.release.behaviour.scorer is None for replay in self._replays):
            return
        rewards = RewardTable(self.events, self.settings, self.since)
        pairs: list[tuple[LoggedList, LoggedList]] = []
        for batch in ImpressionLog(self.events.database).batches(since=self.since):
            for _, record in batch:
                if record.shown.policy != EXPLORED or len(pairs) == MAX_CASES:
                    continue
                logged = [logged_list(replay, record, rewards, self.settings.explore) for replay in self._replays]
                if logged[0] is not None and logged[1] is not None:
                    pairs.append((logged[0], logged[1]))
                    self._report("compare explored lists", len(pairs), MAX_CASES)
        if len(pairs) < MIN_CASES:
            return
        lists, parent_lists = ([pair[side] for pair in pairs] for side in (0, 1))
        parent = estimate(parent_lists, SEED)
        if min(estimate(lists, SEED).effective, parent.effective) < MIN_EFFECTIVE:
            return
        gain = estimate_gain(lists, parent_lists, SEED)
        name, interval = "reward of explored lists (DR)", (gain.mean, gain.low, gain.high)
        yield _gain_check(name, parent.dr.mean, interval, len(pairs), self.settings)

    def _probabilities(
        self,
        replay: ReleaseReplay,
        user_id: str,
        items: NDArray[np.int64],
        positions: NDArray[np.float32],
        moment: float,
        heads: list[str],
    ) -> NDArray[np.float32] | None:
        """Return a release's probabilities for items by the new release's indices, [m, heads].

        None where the release does not have one of the items.
        """
        own = [replay.snapshot.item_index(self.replay.snapshot.item_id(each)) for each in items.tolist()]
        if any(each is None for each in own):
            return None
        item_indices = np.array(own, np.int64)
        order = np.argsort(item_indices)
        in_order = replay.probabilities(user_id, item_indices[order], positions[order], moment)
        scorer = replay.release.behaviour.scorer
        if in_order is None or scorer is None:
            return None
        probabilities = np.empty_like(in_order)
        probabilities[order] = in_order
        known = list(scorer.metadata.heads)
        return probabilities[:, [known.index(head) for head in heads]]

    def _report(self, stage: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(stage, done, total, "lists")


def _index_recall(settings: Settings, release: Release, parent: Release) -> Iterator[Check]:
    for name, index in release.manifest.indexes.items():
        before = parent.manifest.indexes.get(name)
        if before is not None and index.recall10 != before.recall10:
            minimum = min(before.recall10, settings.recall_target) - settings.gate.recall
            yield _minimum_check(f"recall@10 of {name}", before.recall10, index.recall10, minimum)


def _training_metrics(settings: Settings, release: Release, parent: Release) -> Iterator[Check]:
    """Compare the metrics of towers and scorers at their training, where they differ."""
    share = 1 - settings.gate.recorded
    towers, parent_towers = release.behaviour.towers, parent.behaviour.towers
    if towers is not None and parent_towers is not None and towers.fingerprint != parent_towers.fingerprint:
        ndcg, parent_ndcg = (float(each.facts["validation"]["ndcg10"]) for each in (towers, parent_towers))
        yield _minimum_check("NDCG@10 of towers at training", parent_ndcg, ndcg, share * parent_ndcg)
    scorer, parent_scorer = release.behaviour.scorer, parent.behaviour.scorer
    if scorer is not None and parent_scorer is not None and scorer.fingerprint != parent_scorer.fingerprint:
        for head, metrics in scorer.metadata.heads.items():
            if head in parent_scorer.metadata.heads:
                parent_auc = parent_scorer.metadata.heads[head].auc
                # The AUC of few outcomes is uncertain: twice its standard error is tolerated.
                error = np.sqrt(metrics.auc * (1 - metrics.auc) / max(1, metrics.outcomes))
                minimum = 0.5 + share * (parent_auc - 0.5) - 2 * error
                yield _minimum_check(f"AUC of {head} at training", parent_auc, metrics.auc, minimum)


def _minimum_check(name: str, parent: float, release: float, minimum: float) -> Check:
    worse = release < round(minimum, 6)
    return Check(name=name, parent=round(parent, 4), release=round(release, 4), worse=worse)


def _gain_check(name: str, parent: float, gain: tuple[float, float, float], cases: int, settings: Settings) -> Check:
    """Return the check of a gain with its interval: worse if it is surely negative, or below the margin."""
    mean, low, high = gain
    return Check(
        name=name,
        parent=round(float(parent), 4),
        release=round(float(parent + mean), 4),
        low=round(float(low), 4),
        high=round(float(high), 4),
        cases=cases,
        worse=bool(high < 0 or mean < -settings.gate.margin * abs(parent)),
    )
