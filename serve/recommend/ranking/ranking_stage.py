"""The contract of a ranking stage: what stages share, what they change, and what one has to provide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.item_mask import ItemMask
from index.protocol import VectorIndex
from serve.recommend.ranking.candidate_scorer import CandidateScorer
from serve.recommend.ranking.category_calibration import CategoryCalibration
from serve.recommend.ranking.exploration import Exploration
from serve.recommend.ranking.merchandising_rules import ActiveRules
from serve.recommend.ranking.quotas import LongTailQuota
from serve.recommend.ranking.ranked_candidates import RankedCandidates
from serve.recommend.retrieval.candidates import CandidateGenerator, Candidates
from serve.recommend.retrieval.retriever import Items
from serve.recommend.retrieval.user_history import UserHistory

POOL = 5  # times as many candidates as requested, from which a list is composed
MAX_SCORED = 200  # candidates that the scorer scores, the best of the linear score model
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class RankingRequest:
    """A request for recommendations.

    Attributes:
        user: The history.
        k: The number of items.
        excluded: Items that are not returned, in rising order.
        now: The time, epoch seconds.
        allowed: The items that may be returned; None for all.
        diversity: How much it counts that items differ, 0 to 1.
        rules: The shop's rules.
        exploration: How to explore; None for not at all.
    """

    user: UserHistory
    k: int
    excluded: Items
    now: float
    allowed: ItemMask | None = None
    diversity: float = 0.0
    rules: ActiveRules | None = None
    exploration: Exploration | None = None


@dataclass(frozen=True)
class RankingResources:
    """What stages work with: the data and settings of one snapshot.

    Attributes:
        generator: Generates candidates.
        scorer: Scores them.
        new_share: The share of positions for items without any event.
        spaces: The spaces in which diversity compares items.
        long_tail: The share of positions for long-tail items, if any.
        calibration: How lists keep to the categories of the history, if they do.
    """

    generator: CandidateGenerator
    scorer: CandidateScorer
    new_share: float = 0.0
    spaces: Mapping[str, VectorIndex] = field(default_factory=dict)
    long_tail: LongTailQuota | None = None
    calibration: CategoryCalibration | None = None


@dataclass(frozen=True)
class RankingState:
    """What one stage hands to the next.

    Attributes:
        request: The request.
        resources: The data and settings.
        ranked: The candidates [n] in their order so far.
        scores: What they are ordered by, [n], always in the order of `ranked`; -inf for candidates without a score,
            which are behind the others until a quota moves them.
        scored: How many candidates have a score.
        pinned: By item index, the position and the rule of each item that is pinned.
        rule_names: By item index, the names of the rules that acted on an item.
        is_drawn: Whether the list is a random sample, which no later stage may reorder.
    """

    request: RankingRequest
    resources: RankingResources
    ranked: RankedCandidates
    scores: Floats
    scored: int = 0
    pinned: Mapping[int, tuple[int, str]] = field(default_factory=dict)
    rule_names: Mapping[int, Sequence[str]] = field(default_factory=dict)
    is_drawn: bool = False

    @classmethod
    def start(cls, request: RankingRequest, resources: RankingResources) -> "RankingState":
        """Return the state before the first stage: no candidates."""
        no_items, no_scores = np.empty(0, np.int64), np.empty(0, np.float32)
        return cls(request, resources, RankedCandidates(Candidates(no_items, no_scores, {}, {})), no_scores)

    @property
    def pool(self) -> int:
        """How many of the first candidates a list is composed from."""
        return min(POOL * self.request.k, MAX_SCORED, self.scored)

    def take(self, rows: NDArray[np.int64]) -> "RankingState":
        """Keep the candidates at some rows, in that order."""
        return replace(self, ranked=self.ranked.take(rows), scores=self.scores[rows])

    def move_to_front(self, rows: NDArray[np.int64]) -> "RankingState":
        """Put the candidates at some rows, in that order, before the others."""
        return self.take(np.concatenate([rows, np.setdiff1d(np.arange(len(self.ranked)), rows)]))


class RankingStage(Protocol):
    """One step of the pipeline; without state of its own. `name` identifies it in the registry."""

    name: str

    def apply(self, state: RankingState) -> RankingState:
        """Return the state after this stage, or the same one if the stage has nothing to do."""
