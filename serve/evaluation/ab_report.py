"""`vetrina ab report`: the interactions with recommendations in each arm of an A/B test, and their difference.

A user belongs to the arm of the release that responded. Users who had responses of both, while servers changed over,
are excluded. Rates are per list. As the lists of one user are not independent, intervals are bootstrap intervals over
users (Efron 1979; Bakshy and Eckles, "Uncertainty in Online Experiments with Dependent Data", KDD 2013).
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
METRICS = (WORTH, *HEADS)


@dataclass(frozen=True)
class Arm:
    """One arm of an A/B test: its releases, users and lists, and the mean reward and interactions of a list."""

    releases: Sequence[str]
    users: int
    lists: int
    means: Mapping[str, float]


@dataclass(frozen=True)
class Difference:
    """Treatment minus control with the 95 % interval, and the share of draws in which treatment is better."""

    mean: float
    low: float
    high: float
    better: float


@dataclass(frozen=True)
class ABReport:
    """An A/B test so far; `excluded` users had responses of both releases."""

    experiment: Experiment
    arms: Mapping[str, Arm]
    differences: Mapping[str, Difference]
    excluded: int


def report(settings: Settings, seed: int = 0) -> ABReport:
    """Compare the arms of the running A/B test.

    Raises NotFound where no test runs, BadRequest where an arm has no lists yet.
    """
    experiment = running(settings.store)
    if experiment is None:
        raise NotFound("no A/B test is running: start one with vetrina ab start RELEASE", "store")
    sums, releases = _sum_by_user(settings, experiment)
    in_both = sums[CONTROL].keys() & sums[TREATMENT].keys()
    rows_by_arm = {
        arm: np.array([row for user_id, row in rows.items() if user_id not in in_both]).reshape(-1, 1 + len(METRICS))
        for arm, rows in sums.items()
    }
    for arm, rows in rows_by_arm.items():
        if not len(rows):
            raise BadRequest(f"{arm} has no lists yet: wait for recommendations to known users", arm)
    random = np.random.default_rng(seed)
    resampled = {arm: _resample(rows, random) for arm, rows in rows_by_arm.items()}
    arms = {
        arm: Arm(
            sorted(releases[arm]),
            len(rows),
            int(rows[:, 0].sum()),
            dict(zip(METRICS, _rates(rows.sum(0)), strict=True)),
        )
        for arm, rows in rows_by_arm.items()
    }
    gains = resampled[TREATMENT] - resampled[CONTROL]  # [draws, metrics]
    low, high = np.quantile(gains, (0.025, 0.975), axis=0)
    differences = {
        name: Difference(
            arms[TREATMENT].means[name] - arms[CONTROL].means[name],
            float(low[column]),
            float(high[column]),
            float((gains[:, column] > 0).mean()),
        )
        for column, name in enumerate(METRICS)
    }
    return ABReport(experiment, arms, differences, len(in_both))


def _sum_by_user(
    settings: Settings, experiment: Experiment
) -> tuple[dict[str, dict[str, Doubles]], dict[str, set[str]]]:
    """Return by arm and user the number of lists and the sums of METRICS over them, and the releases of each arm."""
    sums: dict[str, dict[str, Doubles]] = {CONTROL: {}, TREATMENT: {}}
    releases: dict[str, set[str]] = defaultdict(set)
    events = open_event_log(settings)
    rewards = RewardTable(events, settings, experiment.since)
    for batch in ImpressionLog(events.database).batches(since=experiment.since):
        for _, record in batch:
            if record.user_id is None:
                continue
            arm = TREATMENT if record.release == experiment.release else CONTROL
            releases[arm].add(record.release)
            heads = [head for _, head in rewards.interactions(record)]
            counts = [float(heads.count(head)) for head in HEADS]
            row = np.array([1.0, rewards.rewards(record).sum(), *counts])
            sums[arm][record.user_id] = sums[arm].get(record.user_id, 0.0) + row
    events.close()
    return sums, releases


def _rates(sums: Doubles) -> list[float]:
    rates: list[float] = (sums[1:] / sums[0]).tolist()
    return rates


def _resample(rows: Doubles, random: np.random.Generator) -> Doubles:
    """Return the rates of users [n, 1 + metrics] drawn with replacement, [draws, metrics]."""
    return np.array([_rates(rows[random.integers(len(rows), size=len(rows))].sum(0)) for _ in range(DRAWS)])
