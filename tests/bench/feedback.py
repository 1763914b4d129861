"""A simulated shop whose shoppers change their minds at a known moment: who follows, how fast, what can be foretold.

A scorer is trained on lists from before. Then come visits: 40 candidates with drawn features, five are shown, and
clicks are drawn by what shoppers like, place by place less looked at. At the flip what was liked is disliked, and other
features begin to matter. Three rank: the frozen scorer, the scorer with its online head, and an oracle that knows the
moment and begins to learn anew there, with all that the head before had learned thrown away. Reward is the expected
number of clicks of what was shown, which no luck of the draw blurs.

Off-policy: lists of the frozen scorer are drawn by Plackett-Luce with their propensities logged, and what another order
would have earned is estimated from them by IPS, SNIPS and doubly robust, 100 times. The truth is simulated.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from report import report
from rich.console import Console
from rich.progress import track
from rich.table import Table

from embed.behaviour.interactions import KINDS
from embed.fitting import fit
from serve.rank.examples import Examples
from serve.rank.export import export
from serve.rank.features import HISTORY, Features, Layout
from serve.rank.online import OnlineHead
from serve.rank.scorer import HeadFacts, Scorer, ScorerFacts
from serve.rank.settings import HEADS, ScorerSettings
from serve.rank.training import ScorerTrainer
from serve.recommend.blend import Blend
from serve.settings import OnlineSettings

SEED = 0
LAYOUT = Layout(("image", "text"))
CANDIDATES, K = 40, 5
VISITS, FLIP = 6000, 2000
EVENTS = 2000  # visits after which the online head is to be close to the oracle
SECONDS = 60.0  # between visits
LOOKED = 1 / np.sqrt(1 + np.arange(K))  # at each place
COLUMNS = ("price", "trend", "image_mean", "text_mean", "age", "popularity")
BEFORE = np.array([1.0, 0.6, 0.8, 0.0, 0.0, 0.5])
AFTER = np.array([-1.0, 0.6, -0.8, 0.8, 0.5, 0.5])
VALUES = {"click": 1.0}
PRIOR, HALF_LIFE_DAYS = OnlineSettings().prior, 1.0


def main() -> None:
    torch.set_num_threads(1)
    random = np.random.default_rng(SEED)
    with TemporaryDirectory() as folder:
        scorer = trained(random, Path(folder))
    rewards = visit(scorer, random)
    after = slice(FLIP, None)
    late = slice(FLIP + EVENTS, None)
    sums = {name: (of[after].sum(), of[late].sum()) for name, of in rewards.items()}
    table = Table("ranked by", "before the flip", "after", "late")
    for name, of in rewards.items():
        table.add_row(name, *(f"{of[part].mean():.4f}" for part in (slice(0, FLIP), after, late)))
    Console().print(table)
    figures: dict[str, float | int | str | None] = {
        "online_over_frozen": round(float(sums["online"][0] / sums["frozen"][0]), 4),
        "online_over_oracle": round(float(sums["online"][1] / sums["oracle"][1]), 4),
        "online_over_frozen_before": round(float(rewards["online"][:FLIP].sum() / rewards["frozen"][:FLIP].sum()), 4),
        "best_after": round(float(rewards["best"][after].mean()), 4),
    }
    report("feedback", figures, SEED, ("torch", "onnxruntime"))


def candidates(random: np.random.Generator) -> Features:
    """Drawn candidates of a shopper without a history."""
    values = np.full((CANDIDATES, len(LAYOUT.names)), np.nan, np.float32)
    for name in COLUMNS:
        values[:, LAYOUT.names.index(name)] = random.normal(size=CANDIDATES)
    nothing = np.zeros((CANDIDATES, 0, len(LAYOUT.channels)), np.float32)
    return Features(values, nothing, np.empty(0, np.int64), np.empty(0, np.float32))


def liking(features: Features, taste: np.ndarray) -> np.ndarray:
    """The probability of a click on each candidate at the first place, [m]."""
    drivers = features.values[:, [LAYOUT.names.index(name) for name in COLUMNS]]
    return 1 / (1 + np.exp(2.5 - drivers @ taste))


def trained(random: np.random.Generator, folder: Path, lists: int = 3000) -> Scorer:
    """A scorer that learned from lists shown at random before the flip."""
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
    told = np.zeros((rows, len(HEADS)), np.bool_)
    told[:, 0] = np.concatenate(labels)
    examples = Examples(
        np.concatenate(values),
        np.zeros((rows, HISTORY, len(LAYOUT.channels)), np.float16),
        np.repeat(np.arange(lists), K),
        told,
        np.ones(rows, np.float32),
        np.ones(rows, np.bool_),
        np.zeros(rows, np.float32),
        np.zeros((lists, HISTORY), np.int64) % len(KINDS),
        np.zeros((lists, HISTORY), np.float32),
        np.zeros((lists, HISTORY), np.float32),
    )
    trainer = ScorerTrainer(ScorerSettings(epochs=10), LAYOUT, examples, ["click"], Blend(weights={}))
    fit(trainer, folder, 10)
    head = HeadFacts(slope=1, offset=0, outcomes=int(told.sum()), auc=0, log_loss=0, base_log_loss=0, ece=0)
    facts = ScorerFacts(
        spaces=LAYOUT.spaces,
        columns=LAYOUT.names,
        towers="",
        usual_place=trainer.usual_place,
        hidden_scale=trainer.hidden_scale(),
        heads={"click": head},
        rows=rows,
        cases=lists,
        epochs=10,
        settings={},
    )
    return Scorer(facts, export(trainer.network))


def visit(scorer: Scorer, random: np.random.Generator) -> dict[str, np.ndarray]:
    """The expected clicks of each visit by who ranked it."""

    def head() -> OnlineHead:
        return OnlineHead(["click"], np.array(scorer.facts.hidden_scale, np.float32), PRIOR, HALF_LIFE_DAYS, 0.0)

    heads = {"online": head(), "oracle": head()}
    rewards = {name: np.zeros(VISITS) for name in ("frozen", "online", "oracle", "best")}
    for number in track(range(VISITS), "visits", console=Console(stderr=True)):
        now = number * SECONDS
        if number == FLIP:
            heads["oracle"] = head()
        found = candidates(random)
        likes = liking(found, BEFORE if number < FLIP else AFTER)
        luck = random.random(CANDIDATES)
        rewards["best"][number] = (np.sort(likes)[::-1][:K] * LOOKED).sum()
        for name in ("frozen", *heads):
            own = heads.get(name)
            correction = None if own is None else lambda hidden, own=own, now=now: own.correction(hidden, now)
            shown = np.argsort(-scorer.score(found, VALUES, correction).total)[:K]
            rewards[name][number] = (likes[shown] * LOOKED).sum()
            if own is not None:
                hidden, chances = scorer.shown_at(found.at(shown), np.arange(K, dtype=np.float32))
                own.shown(hidden, chances, now)
                for place in np.flatnonzero(luck[shown] < likes[shown] * LOOKED):
                    own.came(hidden[place], "click", now)
    return rewards


if __name__ == "__main__":
    main()
