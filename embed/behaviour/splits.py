"""Splits interactions into training data and held-out data.

**By time** (the default). Interactions before a moment are training data, those at or after it are held out. These
rules keep the future out of training:

- the moment is the same for all users, so no user's later purchases reveal what another one will buy;
- the history of a held-out user contains only events before the moment, and may be empty;
- popularity, co-visitation and both towers use only events before the moment. The catalogue is the current one, because
  an item's texts and photos exist when it goes on sale;
- epochs and retriever weights are chosen on a validation period that lies before the test period.

**By each user's tail.** The last share of every user's interactions is held out, for data that has too little at the
end of its time. What other users chose later is then known.

**Leave-one-out**, as in public benchmarks: the last interaction of each user is the test, the one before it the
validation. It mixes times between users and therefore favors popularity; its figures compare only with each other.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embed.behaviour.interactions import Interactions
from embed.ragged import make_offsets, range_indices


@dataclass(frozen=True)
class Holdout:
    """Held-out data: for each of m users the `history` before a moment, and the distinct items liked after it.

    The targets of user u are `targets[starts[u]:starts[u + 1]]`. None of them is in the user's history.
    """

    history: Interactions
    starts: NDArray[np.int64]  # [m + 1]
    targets: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.history.users)

    def sample(self, limit: int, seed: int) -> "Holdout":
        """Return at most `limit` of the users, drawn with a seed."""
        if len(self) <= limit:
            return self
        return self.select_users(np.sort(np.random.default_rng(seed).choice(len(self), limit, replace=False)))

    def select_users(self, users: NDArray[np.int64]) -> "Holdout":
        """Return some of the users, by index, in the order given."""
        lengths = np.diff(self.starts)[users]
        rows = range_indices(self.starts[users], lengths)
        return Holdout(self.history.select_users(users), make_offsets(lengths), self.targets[rows])


@dataclass(frozen=True)
class Split:
    """Training, validation and test data. The two moments, in epoch seconds, are where validation and test begin."""

    validation_from: float
    test_from: float
    train: Interactions
    validation: Holdout
    before_test: Interactions
    test: Holdout
    report: dict[str, int | float]


def split_by_time(interactions: Interactions, validation: float = 0.1, test: float = 0.1) -> Split:
    """Hold out the last share `test` of all liked interactions, and the share `validation` before them, by time."""
    liked = np.sort(interactions.time[interactions.weight > 0])
    first, second = (
        float(liked[int(len(liked) * (1 - share))]) if share and len(liked) else np.inf
        for share in (validation + test, test)
    )
    return split_at(interactions, first, second)


def split_at(interactions: Interactions, validation_from: float, test_from: float) -> Split:
    """Split at two moments in epoch seconds: validation begins at the first, test at the second."""
    train = interactions.where(interactions.time < validation_from)
    before_test = interactions.where(interactions.time < test_from)
    during = (interactions.time >= validation_from) & (interactions.time < test_from)
    test = interactions.where(interactions.time >= test_from)
    return _split((validation_from, test_from), train, interactions.where(during), before_test, test)


def split_user_tails(interactions: Interactions, validation: float = 0.2, test: float = 0.2) -> Split:
    """Hold out the last share `test` of the interactions of each user, and the share `validation` before them.

    Shares are rounded up; a user keeps the first interaction.
    """
    lengths = np.diff(interactions.starts)
    from_end = np.repeat(interactions.starts[1:], lengths) - np.arange(len(interactions))  # 1 for the last
    last, held = (np.repeat(np.ceil(lengths * share), lengths) for share in (test, validation + test))
    first = from_end == np.repeat(lengths, lengths)
    is_test, is_held = (from_end <= last) & ~first, (from_end <= held) & ~first
    latest = float(interactions.time.max(initial=0.0))  # there is no common moment
    before_test, train = interactions.where(~is_test), interactions.where(~is_held)
    validating = interactions.where(is_held & ~is_test)
    return _split((latest, latest), train, validating, before_test, interactions.where(is_test))


def leave_one_out(interactions: Interactions) -> Split:
    """Hold out each user's last interaction as test and the one before as validation, for users with 3 or more."""
    lengths = np.diff(interactions.starts)
    from_end = np.repeat(interactions.starts[1:], lengths) - np.arange(len(interactions))
    enough = np.repeat(lengths >= 3, lengths)
    is_test, is_validation = (from_end == 1) & enough, (from_end == 2) & enough
    before_test = interactions.where(~is_test)
    train = interactions.where(~is_test & ~is_validation)
    latest = float(interactions.time.max(initial=0.0))  # there is no common moment: count all items as equally old
    return _split((latest, latest), train, interactions.where(is_validation), before_test, interactions.where(is_test))


def _split(
    moments: tuple[float, float],
    train: Interactions,
    validation: Interactions,
    before_test: Interactions,
    test: Interactions,
) -> Split:
    held = _holdout(train, validation), _holdout(before_test, test)
    report: dict[str, int | float] = {"train_interactions": len(train), "train_users": _active_users(train)}
    trained = np.zeros(train.items, np.bool_)
    trained[train.item] = True
    for name, part in zip(("validation", "test"), held, strict=True):
        report |= {
            f"{name}_users": len(part),
            f"{name}_targets": len(part.targets),
            f"{name}_cold_users": int((np.diff(part.history.starts) == 0).sum()),
            f"{name}_cold_targets": int((~trained[part.targets]).sum()),
        }
        trained[before_test.item] = True
    return Split(*moments, train, held[0], before_test, held[1], report)


def _holdout(before: Interactions, after: Interactions) -> Holdout:
    """Hold out the liked items of `after` that are new to the user, each once."""
    liked = after.where(after.weight > 0)
    pairs = np.unique(liked.user * liked.items + liked.item)
    pairs = pairs[~np.isin(pairs, before.user * before.items + before.item)]
    user = pairs // max(1, liked.items)
    users, counts = np.unique(user, return_counts=True)
    return Holdout(before.select_users(users), make_offsets(counts), (pairs % max(1, liked.items)).astype(np.int32))


def _active_users(interactions: Interactions) -> int:
    return int((np.diff(interactions.starts) > 0).sum())
