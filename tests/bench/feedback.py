"""Online learning and off-policy estimates in a simulated shop whose users change their preferences at a known visit.

A scorer is trained on lists from before the change. Each visit then has 40 candidates with random features. Five are
shown, and clicks are drawn from the users' preferences; lower positions are looked at less. At the change (the flip),
liked features become disliked and other features begin to matter. Three rankers are compared: the frozen scorer, the
scorer with its online head, and an oracle that knows the flip and replaces its head by a new one there. The reward is
the expected number of clicks of the shown items, so that it has no noise of drawn clicks.

Off-policy: lists of the frozen scorer are drawn by Plackett-Luce with logged propensities, and the reward of another
order is estimated from them by IPS, SNIPS and doubly robust, 100 times. The truth is known from the simulation.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from report import earlier, report
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embed.behaviour.interactions import KINDS
from embed.training_loop import fit
from serve.core.ranking_settings import HEADS, ScorerSettings
from serve.core.settings_sections import ExploreSettings, OnlineSettings
from serve.evaluation.off_policy import LoggedList, estimate
from serve.recommend.ranking.exploration import Exploration, compute_propensities, count_eligible
from serve.recommend.ranking.feature import HISTORY
from serve.recommend.ranking.feature_builder import FeatureLayout, FeatureMatrix
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.scorer import HeadMetrics, Scorer, ScorerMetadata
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.training.onnx_export import export
from serve.training.ranking_examples import Examples
from serve.training.scorer_trainer import ScorerTrainer

SEED = 0
LAYOUT = FeatureLayout(("image", "text"))
CANDIDATES, K = 40, 5
VISITS, FLIP = 6000, 2000
EVENTS = 2000  # visits after which the online head should be close to the oracle
SECONDS = 60.0  # between visits
LOOKED = 1 / np.sqrt(1 + np.arange(K))  # share of visits that look at each position
COLUMNS = ("price", "trend", "image_mean", "text_mean", "age", "popularity")
BEFORE = np.array([1.0, 0.6, 0.8, 0.0, 0.0, 0.5])
AFTER = np.array([-1.0, 0.6, -0.8, 0.8, 0.5, 0.5])
VALUES = {"click": 1.0}
PRIOR, HALF_LIFE_DAYS = OnlineSettings().prior, 1.0
RUNS, LISTS, SHOWN = 100, 500, 3
EXPLORE = ExploreSettings()
OTHER = np.array([0.6, 0.6, 0.5, 0.4, 0.2, 0.5])  # the preferences that another release assumes


def main() -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(SEED)
    with TemporaryDirectory() as folder:
        scorer = trained(random, Path(folder))
    rewards = visit(scorer, random)
    covered, errors = off_policy(scorer)
    after = slice(FLIP, None)
    late = slice(FLIP + EVENTS, None)
    sums = {name: (values[after].sum(), values[late].sum()) for name, values in rewards.items()}
    table = Table("ranked by", "before the flip", "after", "late")
    for name, values in rewards.items():
        table.add_row(name, *(f"{values[part].mean():.4f}" for part in (slice(0, FLIP), after, late)))
    Console().print(table)
    figures: dict[str, float | int | str | None] = {
        "online_over_frozen": round(float(sums["online"][0] / sums["frozen"][0]), 4),
        "online_over_oracle": round(float(sums["online"][1] / sums["oracle"][1]), 4),
        "online_over_frozen_before": round(float(rewards["online"][:FLIP].sum() / rewards["frozen"][:FLIP].sum()), 4),
        "best_after": round(float(rewards["best"][after].mean()), 4),
    }
    for name, within in covered.items():
        figures[f"ope_coverage_{name}"] = round(float(np.mean(within)), 4)
        figures[f"ope_error_{name}"] = round(float(np.sqrt(np.mean(np.square(errors[name])))), 4)
    figures["ope_coverage"] = figures["ope_coverage_dr"]
    report("feedback", earlier("feedback") | figures, SEED, ("torch", "onnxruntime"))


def candidates(random: np.random.Generator) -> FeatureMatrix:
    """Return random candidates of a user without a history."""
    values = np.full((CANDIDATES, len(LAYOUT.names)), np.nan, np.float32)
    for name in COLUMNS:
        values[:, LAYOUT.names.index(name)] = random.normal(size=CANDIDATES)
    nothing = np.zeros((CANDIDATES, 0, len(LAYOUT.channels)), np.float32)
    return FeatureMatrix(values, nothing, np.empty(0, np.int64), np.empty(0, np.float32))


def liking(features: FeatureMatrix, preferences: np.ndarray) -> np.ndarray:
    """Return the probability of a click on each candidate in the first position, [m]."""
    drivers = features.values[:, [LAYOUT.names.index(name) for name in COLUMNS]]
    return 1 / (1 + np.exp(2.5 - drivers @ preferences))


def trained(random: np.random.Generator, folder: Path, lists: int = 3000) -> Scorer:
    """Return a scorer trained on lists that were shown in random order before the flip."""
    values, labels, positions = [], [], []
    for _ in range(lists):
        found = candidates(random)
        shown = random.choice(CANDIDATES, K, replace=False)
        row = found.values[shown]
        row[:, LAYOUT.names.index("position")] = np.log2(1 + np.arange(K))
        values.append(row)
        labels.append(random.random(K) < liking(found, BEFORE)[shown] * LOOKED)
        positions.append(np.arange(K))
    rows = lists * K
    outcomes = np.zeros((rows, len(HEADS)), np.bool_)
    outcomes[:, 0] = np.concatenate(labels)
    examples = Examples(
        np.concatenate(values),
        np.zeros((rows, HISTORY, len(LAYOUT.channels)), np.float16),
        np.repeat(np.arange(lists), K),
        outcomes,
        np.ones(rows, np.float32),
        np.ones(rows, np.bool_),
        np.zeros(rows, np.float32),
        np.zeros((lists, HISTORY), np.int64) % len(KINDS),
        np.zeros((lists, HISTORY), np.float32),
        np.zeros((lists, HISTORY), np.float32),
    )
    trainer = ScorerTrainer(ScorerSettings(epochs=10), LAYOUT, examples, ["click"], LinearScoreModel(weights={}))
    fit(trainer, folder, 10)
    head = HeadMetrics(slope=1, offset=0, outcomes=int(outcomes.sum()), auc=0, log_loss=0, base_log_loss=0, ece=0)
    metadata = ScorerMetadata(
        spaces=LAYOUT.spaces,
        columns=LAYOUT.names,
        towers="",
        usual_position=trainer.usual_position,
        hidden_scale=trainer.hidden_scale(),
        heads={"click": head},
        rows=rows,
        cases=lists,
        epochs=10,
        settings={},
    )
    return Scorer(metadata, export(trainer.network))


def off_policy(
    scorer: Scorer, runs: int = RUNS, lists_per_run: int = LISTS
) -> tuple[dict[str, list[bool]], dict[str, list[float]]]:
    """Return for each estimator and run whether its interval contains the truth, and the error of its mean."""
    random = np.random.default_rng(SEED + 1)
    looked = LOOKED[:SHOWN]
    lists, truth = [], []
    for _ in track(range(runs * lists_per_run), "off-policy", console=Console(stderr=True)):
        found = candidates(random)
        scores = scorer.score(found, VALUES).heads["click"]
        likes, others = liking(found, BEFORE), liking(found, OTHER)
        exploration = Exploration("plackett_luce", random, EXPLORE.temperature, 0.0)
        best = np.argsort(-scores)
        drawn, logged = exploration.draw(scores[best], SHOWN)
        shown = best[drawn]
        # The other release explores among the same items, those that may be drawn.
        part = best[: count_eligible(scores[best], SHOWN, 0.0)]
        where = np.array([int(np.flatnonzero(part == item)[0]) for item in shown])
        other = compute_propensities(others[part].astype(np.float32), where, EXPLORE.temperature)
        probability = others[part] ** (1 / EXPLORE.temperature)
        expected = np.zeros(SHOWN)
        for position in range(SHOWN):
            left = np.delete(np.arange(len(part)), where[:position])
            drawn_next = probability[left] / probability[left].sum()
            expected[position] = drawn_next @ scores[part][left] * looked[position]
        clicked = random.random(SHOWN) < likes[shown] * looked
        lists.append(
            LoggedList(
                logged.astype(np.float64),
                other.astype(np.float64),
                clicked.astype(np.float64),
                scores[shown].astype(np.float64) * looked,
                expected,
            )
        )
        order, _ = exploration.draw(np.sort(others[part].astype(np.float32))[::-1], SHOWN)
        truth.append(likes[part[np.argsort(-others[part])][order]] @ looked)
    value = float(np.mean(truth))
    covered: dict[str, list[bool]] = {"ips": [], "snips": [], "dr": []}
    errors: dict[str, list[float]] = {"ips": [], "snips": [], "dr": []}
    for run in range(runs):
        found = estimate(lists[run * lists_per_run : (run + 1) * lists_per_run], seed=run)
        for name, within in covered.items():
            interval = getattr(found, name)
            within.append(interval.low <= value <= interval.high)
            errors[name].append(interval.mean - value)
    return covered, errors


def visit(scorer: Scorer, random: np.random.Generator, visits: int = VISITS, flip: int = FLIP) -> dict[str, np.ndarray]:
    """Return the expected clicks of each visit by ranker; preferences change at visit `flip`."""

    def head() -> OnlineHead:
        return OnlineHead(["click"], np.array(scorer.metadata.hidden_scale, np.float32), PRIOR, HALF_LIFE_DAYS, 0.0)

    heads = {"online": head(), "oracle": head()}
    rewards = {name: np.zeros(visits) for name in ("frozen", "online", "oracle", "best")}
    for number in track(range(visits), "visits", console=Console(stderr=True)):
        now = number * SECONDS
        if number == flip:
            heads["oracle"] = head()
        found = candidates(random)
        likes = liking(found, BEFORE if number < flip else AFTER)
        draws = random.random(CANDIDATES)
        rewards["best"][number] = (np.sort(likes)[::-1][:K] * LOOKED).sum()
        for name in ("frozen", *heads):
            own = heads.get(name)
            correction = None if own is None else lambda hidden, own=own, now=now: own.correction(hidden, now)
            shown = np.argsort(-scorer.score(found, VALUES, correction).total)[:K]
            rewards[name][number] = (likes[shown] * LOOKED).sum()
            if own is not None:
                hidden, probabilities = scorer.predict_at(found.take(shown), np.arange(K, dtype=np.float32))
                own.record_shown(hidden, probabilities, now)
                for position in np.flatnonzero(draws[shown] < likes[shown] * LOOKED):
                    own.record_outcome(hidden[position], "click", now)
    return rewards


if __name__ == "__main__":
    main()
