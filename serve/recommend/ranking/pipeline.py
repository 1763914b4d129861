"""The ranking pipeline: from the candidates of all retrievers to the list of one request.

Recommendations pass through the stages of `stage_registry`. Items of the caller, and search hits of a known user, are
only scored.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from index.item_mask import ItemMask
from index.protocol import VectorIndex
from index.top_k import top_k
from serve.recommend.ranking.candidate_scorer import CandidateScorer
from serve.recommend.ranking.category_calibration import CategoryCalibration
from serve.recommend.ranking.explanations import Reasons, explain_totals
from serve.recommend.ranking.exploration import Exploration
from serve.recommend.ranking.feature_builder import FeatureBuilder
from serve.recommend.ranking.merchandising_rules import ActiveRules
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.quotas import LongTailQuota
from serve.recommend.ranking.ranked_candidates import RankedCandidates, RelevanceMix
from serve.recommend.ranking.ranking_stage import RankingRequest, RankingResources, RankingState
from serve.recommend.ranking.scorer import Scorer
from serve.recommend.ranking.stage_registry import STAGES
from serve.recommend.retrieval.candidates import DEPTH, CandidateGenerator
from serve.recommend.retrieval.retriever import Items, Scores
from serve.recommend.retrieval.user_history import UserHistory


class RankingPipeline:
    """Ranks the items of one snapshot for a user.

    Args:
        generator: Generates candidates.
        builder: Builds the scorer's features; None without a scorer.
        scorer: The scorer; without one the order of the linear score model stands.
        head_values: What an outcome of each head is worth to the shop.
        new_share: The share of positions for items without any event.
        spaces: The spaces in which diversity compares items.
        margins: Returns the factor by which a purchase of each of some items is worth more or less.
        online_head: What was learned about the scorer since it was trained.
        long_tail: The share of positions for long-tail items, if any.
        calibration: How lists keep to the categories of the history, if they do.
    """

    def __init__(
        self,
        generator: CandidateGenerator,
        builder: FeatureBuilder | None,
        scorer: Scorer | None,
        head_values: Mapping[str, float],
        new_share: float = 0.0,
        spaces: Mapping[str, VectorIndex] | None = None,
        margins: Callable[[Items], Scores] | None = None,
        online_head: OnlineHead | None = None,
        long_tail: LongTailQuota | None = None,
        calibration: CategoryCalibration | None = None,
    ) -> None:
        self._generator = generator
        self._scorer = CandidateScorer(builder, scorer, head_values, margins, online_head)
        self._resources = RankingResources(generator, self._scorer, new_share, spaces or {}, long_tail, calibration)

    @property
    def failures(self) -> int:
        """How many requests the scorer or an explanation failed for."""
        return self._scorer.failures

    def recommend(
        self,
        user: UserHistory,
        k: int,
        excluded: Items,
        now: float,
        allowed: ItemMask | None = None,
        diversity: float = 0.0,
        rules: ActiveRules | None = None,
        exploration: Exploration | None = None,
    ) -> RankedCandidates:
        """Return the k best items for a user; k whenever there are k (see CandidateGenerator.recommend).

        An item that `rules` pin is returned even if no retriever proposes it, but not if it is excluded, hidden or not
        allowed. A list that exploration draws is not made diverse and has no quotas.

        Args:
            user: The history.
            k: The number of items.
            excluded: Items that are not returned, in rising order.
            now: The time, epoch seconds.
            allowed: The items that may be returned; None for all.
            diversity: How much it counts that items differ, 0 to 1.
            rules: The shop's rules.
            exploration: How to explore; None for not at all.
        """
        request = RankingRequest(user, k, excluded, now, allowed, diversity, rules, exploration)
        state = RankingState.start(request, self._resources)
        for stage in STAGES:
            state = stage.apply(state)
        return state.ranked

    def rank(self, user: UserHistory, items: Items, now: float) -> RankedCandidates:
        """Return some items [m], distinct and in rising order, in the best order for a user."""
        candidates = self._generator.generate(user, DEPTH, np.empty(0, np.int64), extra=items)
        rows = np.flatnonzero(np.isin(candidates.items, items))
        return self._scorer.rank(user, candidates, rows, now).take(np.arange(len(rows)))

    def personalize(
        self, user: UserHistory, items: Items, relevance: Scores, strength: float, k: int, now: float
    ) -> RankedCandidates | None:
        """Return the k best hits of a search by their relevance and their expected value for the user.

        Args:
            user: The history.
            items: The hits, [m], distinct.
            relevance: Their relevance [m] in standard deviations over all items, so that it decides where the query
                tells hits apart.
            strength: The weight of the expected value, which is in standard deviations over the hits.
            k: The number of items.
            now: The time, epoch seconds.

        Returns:
            None if no scorer ranked.
        """
        order = np.argsort(items)
        ranked = self.rank(user, items[order], now)
        if ranked.output is None:
            return None
        expected = ranked.output.total
        ranked_relevance = relevance[order][np.searchsorted(items[order], ranked.items)]
        query = ranked_relevance - ranked_relevance.mean()
        factor = strength / max(float(expected.std()), 1e-6)
        mix = RelevanceMix(query, -factor * float(expected.mean()), factor)
        total = query + mix.shift + factor * expected
        best = top_k(total, ranked.items, k)
        return replace(ranked, output=replace(ranked.output, total=total), mix=mix).take(best)

    def predict_shown(self, ranked: RankedCandidates) -> tuple[Scores, Scores] | None:
        """Return the last hidden layer [m, hidden] and the probabilities [m, heads] of items at their positions.

        The online head learns from them. None unless a scorer scored all of them.
        """
        return self._scorer.predict_shown(ranked)

    def predict_at(self, user: UserHistory, items: Items, positions: Scores, now: float) -> Scores | None:
        """Return the probabilities [m, heads] of items [m, distinct and rising] at positions [m] of a list.

        None without a scorer, or if it fails.
        """
        return self._scorer.predict_at(self.rank(user, items, now), items, positions)

    def explain(
        self,
        ranked: RankedCandidates,
        user: UserHistory,
        id_of: Callable[[int], str],
        title_of: Callable[[str], str],
    ) -> list[Reasons | None]:
        """Return the reasons for ranked items; None for an item that the scorer did not score, or if it fails.

        Args:
            ranked: The items.
            user: The history that they were ranked for.
            id_of: Returns the id of an item index.
            title_of: Returns the title of an item by its id.
        """
        reasons = self._scorer.explain(ranked, user, id_of, title_of)
        if reasons is not None:
            return reasons
        return list(explain_totals(self._generator.score_parts(ranked.candidates), len(ranked)))
