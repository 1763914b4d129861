"""`vetrina ab report`: what each part of an A/B test did with its recommendations, and how sure the difference is.

A shopper belongs to the release that answered; who was answered by both, while servers changed over, is left out.
Rates are over lists. As the lists of one shopper go together, intervals are by the bootstrap over shoppers (Efron 1979;
Bakshy and Eckles, "Uncertainty in Online Experiments with Dependent Data", KDD 2013).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serve.core.errors import BadRequest, NotFound
from serve.core.ranking_settings import HEADS
from serve.core.settings import Settings
from serve.evaluation.rewards import RewardTable
from serve.release.ab_test import CONTROL, TREATMENT, Experiment, running
from serve.storage.event_log import open_event_log
from serve.storage.impression_log import ImpressionLog

Doubles = NDArray[np.float64]
DRAWS = 2000
WORTH = "worth"
MEASURES = (WORTH, *HEADS)


@dataclass(frozen=True)
class Arm:
    """What one part of the shoppers did: means over lists, of what came of one and of how often each act did."""

    releases: Sequence[str]
    users: int
    lists: int
    means: Mapping[str, float]


@dataclass(frozen=True)
class Difference:
    """Treatment less control with the 95 % interval, and the share of draws in which treatment is the better."""

    mean: float
    low: float
    high: float
    better: float


@dataclass(frozen=True)
class Comparison:
    """An A/B test so far; `excluded` shoppers were answered by both releases."""

    experiment: Experiment
    arms: Mapping[str, Arm]
    differences: Mapping[str, Difference]
    excluded: int


def report(settings: Settings, seed: int = 0) -> Comparison:
    """Raises NotFound where no test runs, BadRequest where one of its parts was not shown anything yet."""
    experiment = running(settings.store)
    if experiment is None:
        raise NotFound("no A/B test runs: start one with vetrina ab start RELEASE", "store")
    events = open_event_log(settings)
    outcomes = RewardTable(events, settings, experiment.since)
    # Of each shopper by part: how many lists, and the sums of MEASURES over them.
    sums: dict[str, dict[str, Doubles]] = {CONTROL: {}, TREATMENT: {}}
    releases: dict[str, set[str]] = defaultdict(set)
    for lot in ImpressionLog(events.database).batches(since=experiment.since):
        for _, answer in lot:
            if answer.user_id is None:
                continue
            part = TREATMENT if answer.release == experiment.release else CONTROL
            releases[part].add(answer.release)
            came = [head for _, head in outcomes.of(answer)]
            counts = [float(came.count(head)) for head in HEADS]
            row = np.array([1.0, outcomes.reward(answer).sum(), *counts])
            sums[part][answer.user_id] = sums[part].get(answer.user_id, 0.0) + row
    events.close()
    both = sums[CONTROL].keys() & sums[TREATMENT].keys()
    of_part = {
        part: np.array([row for user_id, row in rows.items() if user_id not in both]).reshape(-1, 1 + len(MEASURES))
        for part, rows in sums.items()
    }
    for part, rows in of_part.items():
        if not len(rows):
            raise BadRequest(f"nothing was shown to {part} yet: the test runs since a moment ago, or nobody came", part)
    random = np.random.default_rng(seed)
    drawn = {part: _drawn(rows, random) for part, rows in of_part.items()}
    arms = {
        part: Arm(
            sorted(releases[part]),
            len(rows),
            int(rows[:, 0].sum()),
            dict(zip(MEASURES, _rates(rows.sum(0)), strict=True)),
        )
        for part, rows in of_part.items()
    }
    gained = drawn[TREATMENT] - drawn[CONTROL]  # [draws, measures]
    low, high = np.quantile(gained, (0.025, 0.975), axis=0)
    differences = {
        name: Difference(
            arms[TREATMENT].means[name] - arms[CONTROL].means[name],
            float(low[place]),
            float(high[place]),
            float((gained[:, place] > 0).mean()),
        )
        for place, name in enumerate(MEASURES)
    }
    return Comparison(experiment, arms, differences, len(both))


def _rates(sums: Doubles) -> list[float]:
    found: list[float] = (sums[1:] / sums[0]).tolist()
    return found


def _drawn(rows: Doubles, random: np.random.Generator) -> Doubles:
    """Rates of shoppers [n, 1 + measures] drawn with replacement, [draws, measures]."""
    return np.array([_rates(rows[random.integers(len(rows), size=len(rows))].sum(0)) for _ in range(DRAWS)])
