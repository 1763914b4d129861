"""Fitting the scorer: cases of the validation time, with sources that know the time before it, to a calibrated scorer.

A fifth of the cases' shoppers is not learned from at first: they say when to stop, and they calibrate. What is reported
is measured on either half of them, calibrated by the other. Then a new network learns from all, for as many epochs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from embed.behaviour import Holdout, Interactions
from embed.training_loop import State, fit
from serve.core.ranking_settings import HEADS, ScorerSettings
from serve.recommend.ranking.feature_builder import FeatureBuilder
from serve.recommend.ranking.impressions import ImpressionTable
from serve.recommend.ranking.scorer import HeadMetrics, Scorer, ScorerMetadata
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.user_history import UserHistory
from serve.training.onnx_export import export
from serve.training.ranking_examples import Examples, LabelledList, LabelledListBuilder
from serve.training.scorer_trainer import FEWEST, Calibration, ScorerTrainer, heads_of

Progress = Callable[[str, float, float, str], None]
MIN_SHOPPERS = 50
BINS = 15


@dataclass(frozen=True)
class FittedScorer:
    """The scorer, how training went, and the held-out outcomes [n] against the probabilities [n] of each head."""

    scorer: Scorer
    state: State
    held: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.float32]]]


@dataclass(frozen=True)
class TrainingWindow:
    """A time to learn from, which begins at a moment (epoch seconds).

    `recommender` and `maker` know what was before the moment, `interactions` also what came in the time; `holdout` says
    what shoppers liked then that was new to them, `shown` are the lists of the time. Of both at most `most` are looked
    at. A `replay` is of a time that was learned from before: nobody in it is held out.
    """

    recommender: CandidateGenerator
    maker: FeatureBuilder
    interactions: Interactions
    holdout: Holdout
    moment: float
    shown: ImpressionTable
    most: int
    replay: bool = False

    def __len__(self) -> int:
        return min(self.most, len(self.holdout)) + min(self.most, len(self.shown))


def fit_scorer(
    times: Sequence[TrainingWindow],
    settings: ScorerSettings,
    towers: str,
    folder: Path,
    progress: Progress | None = None,
    events_until: int = 0,
    learned_until: float = 0.0,
    start: Scorer | None = None,
) -> FittedScorer | None:
    """A scorer from what shoppers did in some times, of which the first is new; None where that is too little.

    `towers` is the fingerprint of what the features will come from, `events_until` the number of the last event of the
    log that was looked at, `learned_until` when the times end. With `start` it goes on from the weights of that scorer.
    """
    if len(times[0].holdout) < MIN_SHOPPERS:
        return None
    maker, score_model = times[0].maker, times[0].recommender.score_model
    users: list[str] = []
    replayed: list[bool] = []
    total = sum(map(len, times))

    def told() -> Iterator[LabelledList]:
        for time in times:
            for user, case in _cases(time, settings):
                users.append(user)
                replayed.append(time.replay)
                yield case
                if progress:
                    progress("look back", len(users), total, "lists")

    examples = Examples.stacked(told(), maker.layout, settings)
    heads = heads_of(examples) if start is None else list(start.facts.heads)
    if not heads:
        return None
    names = sorted(set(users))
    part = dict(zip(names, np.random.default_rng(settings.seed).permutation(len(names)) % 10, strict=True))
    parts = np.where(replayed, 9, [part[user] for user in users])
    trainer = ScorerTrainer(settings, maker.layout, examples.of(parts >= 2), heads, score_model, start)
    held = examples.of(parts < 2)
    tell = (lambda done, all_: progress("train the scorer", done, all_, "steps")) if progress else None
    state = fit(
        trainer,
        folder / "choose",
        settings.epochs,
        settings.patience,
        lambda: trainer.measure(held),
        "likelihood",
        progress=tell,
    )
    before = {} if start is None else start.facts.heads
    facts, outcomes = _calibrate(trainer, (examples.of(parts == 0), examples.of(parts == 1)), heads, before)
    whole = ScorerTrainer(settings, maker.layout, examples, heads, score_model, start)
    tell = (lambda done, all_: progress("train it on all", done, all_, "steps")) if progress else None
    fit(whole, folder / "finish", state.best_epoch, progress=tell)
    scorer = Scorer(
        ScorerMetadata(
            spaces=maker.layout.spaces,
            related=maker.layout.related,
            columns=maker.layout.names,
            towers=towers,
            usual_place=whole.usual_place,
            events_until=events_until,
            learned_until=learned_until,
            hidden_scale=whole.hidden_scale(),
            heads=facts,
            rows=len(examples),
            cases=len(users),
            epochs=state.best_epoch,
            settings=settings.model_dump(),
        ),
        export(whole.network),
    )
    return FittedScorer(scorer, state, outcomes)


def _cases(time: TrainingWindow, settings: ScorerSettings) -> Iterator[tuple[str, LabelledList]]:
    """Each case with its shopper."""
    cases = LabelledListBuilder(time.recommender, time.maker, time.interactions, settings)
    random, shown = np.random.default_rng(settings.seed), time.shown
    if len(shown):
        chosen = np.sort(random.choice(len(shown), min(time.most, len(shown)), replace=False))
        yield from zip(shown.users[chosen].tolist(), cases.shown(shown, chosen), strict=True)
    known = {name: number for number, name in enumerate(time.interactions.users.tolist())}
    held = time.holdout.some(time.most, settings.seed)
    for place in range(len(held)):
        name = held.history.users[place]
        whole, before = (
            UserHistory.of(time.interactions, known[name]),
            int(held.history.starts[place + 1] - held.history.starts[place]),
        )
        if (case := cases.sought(whole, before, time.moment)) is not None:
            yield name, case


def _calibrate(
    trainer: ScorerTrainer, halves: tuple[Examples, Examples], heads: Sequence[str], before: Mapping[str, HeadMetrics]
) -> tuple[dict[str, HeadMetrics], dict[str, tuple[NDArray[np.bool_], NDArray[np.float32]]]]:
    """Slope and offset of each head, by what was shown where enough was, and how such probabilities measure.

    What is known from `before` stays where there is too little to tell anew.
    """
    facts, outcomes = {}, {}
    told = [trainer.logits(half) for half in halves]
    for place, head in enumerate(heads):
        column = HEADS.index(head)
        if head in before and sum(int(half.labels[:, column].sum()) for half in halves) < FEWEST:
            facts[head] = before[head]
            continue
        of_shown = sum(int(half.labels[half.shown, column].sum()) for half in halves) >= FEWEST
        parts = []  # logits, labels and offsets of each half
        for half, logits in zip(halves, told, strict=True):
            rows = half.shown if of_shown else np.ones(len(half), np.bool_)
            parts.append((logits[rows, place], half.labels[rows, column], half.offset[rows]))
        truths, probabilities = [], []
        for one, (logits, labels, offset) in zip(parts, parts[::-1], strict=True):
            found = Calibration.fit(*one)
            truths.append(labels)
            probabilities.append(1 / (1 + np.exp(-(found.slope * logits + found.offset + offset))))
        truth, probability = np.concatenate(truths), np.concatenate(probabilities).astype(np.float32)
        outcomes[head] = (truth, probability)
        both = Calibration.fit(*(np.concatenate(each) for each in zip(*parts, strict=True)))
        rate = float(truth.mean()) if len(truth) else 0.0
        facts[head] = HeadMetrics(
            slope=both.slope,
            offset=both.offset,
            outcomes=int(truth.sum()),
            auc=round(auc(truth, probability), 4),
            log_loss=round(log_loss(truth, probability), 5),
            base_log_loss=round(log_loss(truth, np.full(len(truth), rate)), 5),
            ece=round(calibration_error(truth, probability), 5),
            reliability=reliability(truth, probability),
        )
    return facts, outcomes


def auc(truth: NDArray[np.bool_], probability: NDArray[np.floating]) -> float:
    """The chance that what happened was held likelier than what did not; 0.5 where there is only one of them."""
    happened, not_ = int(truth.sum()), int((~truth).sum())
    if not happened or not not_:
        return 0.5
    return float((rankdata(probability)[truth].sum() - happened * (happened + 1) / 2) / (happened * not_))


def log_loss(truth: NDArray[np.bool_], probability: NDArray[np.floating]) -> float:
    """The mean of -log of the probability given to what happened."""
    if not len(truth):
        return 0.0
    kept = np.clip(np.where(truth, probability, 1 - probability), 1e-7, 1)
    return float(-np.log(kept).mean())


def reliability(
    truth: NDArray[np.bool_], probability: NDArray[np.floating], bins: int = BINS
) -> list[tuple[float, float, int]]:
    """Mean probability, share that happened, and count, of bins of equally many rows in order of probability."""
    order = np.argsort(probability, kind="stable")
    return [
        (float(probability[rows].mean()), float(truth[rows].mean()), len(rows))
        for rows in np.array_split(order, bins)
        if len(rows)
    ]


def calibration_error(truth: NDArray[np.bool_], probability: NDArray[np.floating], bins: int = BINS) -> float:
    """The expected calibration error: mean distance of probability and share over bins of equally many rows.

    Bins as in Nixon et al., "Measuring Calibration in Deep Learning" (2019): even ones leave most rows in one bin.
    """
    found = reliability(truth, probability, bins)
    return sum(count * abs(said - was) for said, was, count in found) / max(1, len(truth))
