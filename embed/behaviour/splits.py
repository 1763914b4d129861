"""Splits: what may be learned from, and what is held out to measure on.

**By time** (the default). Everything before a moment is learned from, for all shoppers alike; held out is what came at
or after it. These rules keep the future out:

- one moment for everybody: no shopper's later purchases tell what another one will buy;
- a held-out shopper is known by the events before that moment only, and by none where there are none;
- popularity, co-visitation and both towers are made of what came before the moment; the catalogue is as it is, since an
  item's words and photos are known when it is put on sale;
- choices (epochs, weights of sources) are made on a validation time that lies before the test time.

**Leave-one-out**, as public benchmarks do: of each shopper the last interaction is the test, the one before it the
validation. It mixes times between shoppers, and so flatters popularity; figures of it compare only to others of it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour.interactions import Interactions


@dataclass(frozen=True)
class Holdout:
    """What is to be found: of each of m shoppers the `history` before, and the distinct items liked after.

    The targets of shopper u are `targets[starts[u]:starts[u + 1]]`. None of them is in the shopper's history.
    """

    history: Interactions
    starts: NDArray[np.int64]  # [m + 1]
    targets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.history.users)

    def some(self, most: int, seed: int) -> "Holdout":
        """At most so many of the shoppers, drawn with the seed."""
        if len(self) <= most:
            return self
        return self.of(np.sort(np.random.default_rng(seed).choice(len(self), most, replace=False)))

    def of(self, users: NDArray[np.int64]) -> "Holdout":
        """Some of the shoppers, in the order given."""
        lengths = np.diff(self.starts)[users]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.repeat(self.starts[users] - starts[:-1], lengths) + np.arange(starts[-1])
        return Holdout(self.history.of(users), starts, self.targets[rows])


@dataclass(frozen=True)
class Split:
    """`train` to learn from; `validation` and `test` to measure on, which begin at the two moments (epoch seconds)."""

    validation_from: float
    test_from: float
    train: Interactions
    validation: Holdout
    before_test: Interactions
    test: Holdout
    report: dict[str, int | float]


def split_by_time(interactions: Interactions, validation: float = 0.1, test: float = 0.1) -> Split:
    """The last `test` of all liked interactions and the `validation` before those are held out, by moments in time."""
    liked = np.sort(interactions.time[interactions.weight > 0])
    first, second = (
        float(liked[int(len(liked) * (1 - share))]) if share and len(liked) else np.inf
        for share in (validation + test, test)
    )
    return split_at(interactions, first, second)


def split_at(interactions: Interactions, validation_from: float, test_from: float) -> Split:
    """Validation from one moment (epoch seconds) until before the other, test from there on."""
    train = interactions.where(interactions.time < validation_from)
    before_test = interactions.where(interactions.time < test_from)
    during = (interactions.time >= validation_from) & (interactions.time < test_from)
    test = interactions.where(interactions.time >= test_from)
    return _split((validation_from, test_from), train, interactions.where(during), before_test, test)


def leave_one_out(interactions: Interactions) -> Split:
    """The last interaction of each shopper is the test, the one before the validation; those of fewer than 3 train."""
    lengths = np.diff(interactions.starts)
    from_end = np.repeat(interactions.starts[1:], lengths) - np.arange(len(interactions))
    enough = np.repeat(lengths >= 3, lengths)
    is_test, is_validation = (from_end == 1) & enough, (from_end == 2) & enough
    before_test = interactions.where(~is_test)
    train = interactions.where(~is_test & ~is_validation)
    latest = float(interactions.time.max(initial=0.0))  # there is no one moment: nothing is older than another thing
    return _split((latest, latest), train, interactions.where(is_validation), before_test, interactions.where(is_test))


def _split(
    moments: tuple[float, float],
    train: Interactions,
    validation: Interactions,
    before_test: Interactions,
    test: Interactions,
) -> Split:
    held = _holdout(train, validation), _holdout(before_test, test)
    report: dict[str, int | float] = {"train_interactions": len(train), "train_shoppers": _shoppers(train)}
    known = np.zeros(train.items, np.bool_)
    known[train.item] = True
    for name, part in zip(("validation", "test"), held, strict=True):
        report |= {
            f"{name}_shoppers": len(part),
            f"{name}_targets": len(part.targets),
            f"{name}_cold_shoppers": int((np.diff(part.history.starts) == 0).sum()),
            f"{name}_cold_targets": int((~known[part.targets]).sum()),
        }
        known[before_test.item] = True
    return Split(*moments, train, held[0], before_test, held[1], report)


def _holdout(before: Interactions, after: Interactions) -> Holdout:
    """Liked items of `after` that are new to the shopper, each once."""
    liked = after.where(after.weight > 0)
    pairs = np.unique(liked.user * liked.items + liked.item)
    pairs = pairs[~np.isin(pairs, before.user * before.items + before.item)]
    user = pairs // max(1, liked.items)
    users, counts = np.unique(user, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Holdout(before.of(users), starts, (pairs % max(1, liked.items)).astype(np.int32))


def _shoppers(interactions: Interactions) -> int:
    return int((np.diff(interactions.starts) > 0).sum())
