"""Fits and calibrates the scorer on lists of the validation time, with retrievers that know only the time before it.

A fifth of the users is held out at first: they decide when training stops, and calibrate the scorer. Reported metrics
are measured on each half of them, calibrated by the other half. Then a new network learns from all users, for the same
number of epochs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from embed.behaviour import Holdout, Interactions
from embed.training_loop import TrainingState, fit
from serve.core.progress import Progress
from serve.core.ranking_settings import HEADS, ScorerSettings
from serve.recommend.ranking.feature_builder import FeatureBuilder
from serve.recommend.ranking.impressions import ImpressionTable
from serve.recommend.ranking.scorer import HeadMetrics, Scorer, ScorerMetadata
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.user_history import UserHistory
from serve.training.onnx_export import export
from serve.training.ranking_examples import Examples, LabelledList, LabelledListBuilder
from serve.training.scorer_trainer import MIN_OUTCOMES, Calibration, ScorerTrainer, learnable_heads

MIN_USERS = 50
BINS = 15


@dataclass(frozen=True)
class FittedScorer:
    """The scorer, its training state, and the held-out outcomes [n] and probabilities [n] of each head."""

    scorer: Scorer
    state: TrainingState
    held: Mapping[str, tuple[NDArray[np.bool_], NDArray[np.float32]]]


@dataclass(frozen=True)
class TrainingWindow:
    """A time to learn from.

    Attributes:
        generator: Generates candidates by what was known before `moment`.
        builder: Builds features by what was known before `moment`.
        interactions: All interactions, those of the window included.
        holdout: The items that users liked in the window and that were new to them.
        moment: When the window begins, epoch seconds.
        shown: The lists that were shown in the window.
        most: How many users, and how many lists, are used at most.
        replay: Whether it was learned from before: then no user in it is held out.
    """

    generator: CandidateGenerator
    builder: FeatureBuilder
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
    """Fit a scorer to some windows.

    Args:
        times: The windows, of which the first is new.
        settings: The settings of the scorer.
        towers: The fingerprint of the towers that serve with it.
        folder: Where checkpoints go.
        progress: Called as training proceeds.
        events_until: The number of the last event of the log that was read.
        learned_until: When the windows end, epoch seconds.
        start: A scorer from whose weights training continues.

    Returns:
        None if there is too little to learn from.
    """
    if len(times[0].holdout) < MIN_USERS:
        return None
    builder, score_model = times[0].builder, times[0].generator.score_model
    users: list[str] = []
    replayed: list[bool] = []
    total = sum(map(len, times))

    def examples_of_windows() -> Iterator[LabelledList]:
        for time in times:
            for user, case in _cases(time, settings):
                users.append(user)
                replayed.append(time.replay)
                yield case
                if progress:
                    progress("collect lists", len(users), total, "lists")

    examples = Examples.stacked(examples_of_windows(), builder.layout, settings)
    heads = learnable_heads(examples) if start is None else list(start.metadata.heads)
    if not heads:
        return None
    names = sorted(set(users))
    part = dict(zip(names, np.random.default_rng(settings.seed).permutation(len(names)) % 10, strict=True))
    parts = np.where(replayed, 9, [part[user] for user in users])
    trainer = ScorerTrainer(settings, builder.layout, examples.of(parts >= 2), heads, score_model, start)
    held = examples.of(parts < 2)
    on_step = (lambda done, all_: progress("train scorer", done, all_, "steps")) if progress else None
    state = fit(
        trainer,
        folder / "choose",
        settings.epochs,
        settings.patience,
        lambda: trainer.measure(held),
        "likelihood",
        progress=on_step,
    )
    before = {} if start is None else start.metadata.heads
    facts, outcomes = _calibrate(trainer, (examples.of(parts == 0), examples.of(parts == 1)), heads, before)
    whole = ScorerTrainer(settings, builder.layout, examples, heads, score_model, start)
    on_step = (lambda done, all_: progress("train final scorer", done, all_, "steps")) if progress else None
    fit(whole, folder / "finish", state.best_epoch, progress=on_step)
    scorer = Scorer(
        ScorerMetadata(
            spaces=builder.layout.spaces,
            related=builder.layout.related,
            columns=builder.layout.names,
            towers=towers,
            usual_position=whole.usual_position,
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
    """Yield each example with its user."""
    cases = LabelledListBuilder(time.generator, time.builder, time.interactions, settings)
    random, shown = np.random.default_rng(settings.seed), time.shown
    if len(shown):
        chosen = np.sort(random.choice(len(shown), min(time.most, len(shown)), replace=False))
        yield from zip(shown.users[chosen].tolist(), cases.shown(shown, chosen), strict=True)
    known = {name: number for number, name in enumerate(time.interactions.users.tolist())}
    held = time.holdout.sample(time.most, settings.seed)
    for row in range(len(held)):
        name = held.history.users[row]
        whole, before = (
            UserHistory.from_interactions(time.interactions, known[name]),
            int(held.history.starts[row + 1] - held.history.starts[row]),
        )
        if (case := cases.sought(whole, before, time.moment)) is not None:
            yield name, case


def _calibrate(
    trainer: ScorerTrainer, halves: tuple[Examples, Examples], heads: Sequence[str], before: Mapping[str, HeadMetrics]
) -> tuple[dict[str, HeadMetrics], dict[str, tuple[NDArray[np.bool_], NDArray[np.float32]]]]:
    """Calibrate each head, by shown items if there are enough of them, and measure the probabilities.

    A head with too few outcomes keeps its metrics of `before`.
    """
    facts, outcomes = {}, {}
    logits_of_halves = [trainer.logits(half) for half in halves]
    for number, head in enumerate(heads):
        column = HEADS.index(head)
        if head in before and sum(int(half.labels[:, column].sum()) for half in halves) < MIN_OUTCOMES:
            facts[head] = before[head]
            continue
        of_shown = sum(int(half.labels[half.shown, column].sum()) for half in halves) >= MIN_OUTCOMES
        parts = []  # logits, labels and offsets of each half
        for half, logits in zip(halves, logits_of_halves, strict=True):
            rows = half.shown if of_shown else np.ones(len(half), np.bool_)
            parts.append((logits[rows, number], half.labels[rows, column], half.offset[rows]))
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
    """Return the area under the ROC curve; 0.5 if all rows have the same outcome."""
    happened, not_ = int(truth.sum()), int((~truth).sum())
    if not happened or not not_:
        return 0.5
    return float((rankdata(probability)[truth].sum() - happened * (happened + 1) / 2) / (happened * not_))


def log_loss(truth: NDArray[np.bool_], probability: NDArray[np.floating]) -> float:
    """Return the mean negative logarithm of the probability of what happened."""
    if not len(truth):
        return 0.0
    kept = np.clip(np.where(truth, probability, 1 - probability), 1e-7, 1)
    return float(-np.log(kept).mean())


def reliability(
    truth: NDArray[np.bool_], probability: NDArray[np.floating], bins: int = BINS
) -> list[tuple[float, float, int]]:
    """Return mean probability, observed share and count of bins of equally many rows in order of probability."""
    order = np.argsort(probability, kind="stable")
    return [
        (float(probability[rows].mean()), float(truth[rows].mean()), len(rows))
        for rows in np.array_split(order, bins)
        if len(rows)
    ]


def calibration_error(truth: NDArray[np.bool_], probability: NDArray[np.floating], bins: int = BINS) -> float:
    """Return the expected calibration error: the mean distance of probability and observed share over the bins.

    Bins as in Nixon et al., "Measuring Calibration in Deep Learning" (2019): even ones leave most rows in one bin.
    """
    found = reliability(truth, probability, bins)
    return sum(count * abs(said - was) for said, was, count in found) / max(1, len(truth))
