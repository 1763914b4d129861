"""Scores the candidates of one snapshot with the scorer, and explains the scores.

Without a scorer the order of the linear score model stands. It also stands if the scorer fails for a request: that is
logged and counted, and the response states what ranked it.
"""

import logging
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from embed.behaviour.interactions import KINDS
from index.top_k import top_k
from serve.core.metrics import FAILURES
from serve.core.request_context import is_late, mark_partial, stage
from serve.recommend.ranking.explanations import FEEDBACK, QUERY, Reasons, explain_scores
from serve.recommend.ranking.feature import HISTORY, FeatureContext
from serve.recommend.ranking.feature_builder import FeatureBuilder, FeatureMatrix, hour_of_day
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.ranked_candidates import RankedCandidates
from serve.recommend.ranking.scorer import Scorer, ScorerOutput, Values
from serve.recommend.retrieval.candidates import Candidates
from serve.recommend.retrieval.retriever import Items, Scores
from serve.recommend.retrieval.user_history import UserHistory

_log = logging.getLogger(__name__)


class CandidateScorer:
    """Puts candidates into the order of their expected value.

    Args:
        builder: Builds features; None without a scorer.
        scorer: The scorer; without one candidates keep their order.
        head_values: What an outcome of each head is worth to the shop.
        margins: Returns the factor by which a purchase of each of some items is worth more or less.
        online_head: What was learned about the scorer since it was trained.
    """

    def __init__(
        self,
        builder: FeatureBuilder | None,
        scorer: Scorer | None,
        head_values: Mapping[str, float],
        margins: Callable[[Items], Scores] | None = None,
        online_head: OnlineHead | None = None,
    ) -> None:
        self._builder, self._scorer, self._head_values = builder, scorer, head_values
        self._margins, self._online_head = margins, online_head
        self.failures = 0

    def rank(
        self,
        user: UserHistory,
        candidates: Candidates,
        rows: NDArray[np.int64],
        now: float,
        random: np.random.Generator | None = None,
    ) -> RankedCandidates:
        """Return the candidates at `rows` in the order of their scores, and the others behind them.

        With `random`, the probabilities are a sample of what they may be.
        """
        rest = np.setdiff1d(np.arange(len(candidates)), rows)
        unscored = RankedCandidates(candidates.take(np.concatenate([rows, rest])))
        if self._scorer is None or self._builder is None or not len(rows):
            return unscored
        if is_late():
            mark_partial("scorer")
            return unscored
        try:
            with stage("rank"):
                features, output = self._score(self._scorer, self._builder, user, candidates, rows, now, random)
        except Exception:  # the user gets a response, whatever failed
            self._count_failure("the scorer failed: the order of the linear score model stands")
            return unscored
        order = top_k(output.total, candidates.items[rows], len(rows))
        feature_rows = np.concatenate([order, np.full(len(rest), -1)])
        ordered = candidates.take(np.concatenate([rows[order], rest]))
        return RankedCandidates(ordered, output.take_padded(feature_rows), features, feature_rows)

    def _score(
        self,
        scorer: Scorer,
        builder: FeatureBuilder,
        user: UserHistory,
        candidates: Candidates,
        rows: NDArray[np.int64],
        now: float,
        random: np.random.Generator | None,
    ) -> tuple[FeatureMatrix, ScorerOutput]:
        """Return the features and scores of the candidates at `rows`."""
        features = builder.build(user, candidates, FeatureContext(now, hour_of_day(now)), rows)
        head = self._online_head
        correction = None if head is None else lambda hidden: head.correction(hidden, now, random)
        return features, scorer.score(features, self._values(candidates.items[rows]), correction)

    def predict_shown(self, ranked: RankedCandidates) -> tuple[Scores, Scores] | None:
        """Return the last hidden layer [m, hidden] and the probabilities [m, heads] of items at their positions.

        The online head learns from them. None unless a scorer scored all of them.
        """
        features = ranked.scored_features()
        if self._scorer is None or features is None:
            return None
        return self._scorer.predict_at(features, np.arange(len(features), dtype=np.float32))

    def predict_at(self, ranked: RankedCandidates, items: Items, positions: Scores) -> Scores | None:
        """Return the probabilities [m, heads] of items [m, rising] at positions [m]; None if no scorer ranked them."""
        if self._scorer is None or ranked.features is None or ranked.feature_rows is None:
            return None
        order = np.searchsorted(items, ranked.items)
        _, predicted = self._scorer.predict_at(ranked.features.take(ranked.feature_rows), positions[order])
        probabilities = np.empty_like(predicted)
        probabilities[order] = predicted
        return probabilities

    def explain(
        self,
        ranked: RankedCandidates,
        user: UserHistory,
        id_of: Callable[[int], str],
        title_of: Callable[[str], str],
    ) -> list[Reasons | None] | None:
        """Return the reasons for ranked items; None if no scorer ranked them.

        A single item has None if the scorer did not score it; all have if the explanation fails.
        """
        if self._scorer is None or ranked.features is None or ranked.feature_rows is None:
            return None
        try:
            scored = ranked.feature_rows >= 0
            features = ranked.features.take(ranked.feature_rows[scored])
            reasons = iter(self._explain(self._scorer, features, ranked, scored, user, id_of, title_of))
            return [next(reasons) if is_scored else None for is_scored in scored.tolist()]
        except Exception:  # the user gets a response, whatever failed
            self._count_failure("the explanation of scores failed")
            return [None] * len(ranked)

    def _explain(
        self,
        scorer: Scorer,
        features: FeatureMatrix,
        ranked: RankedCandidates,
        scored: NDArray[np.bool_],
        user: UserHistory,
        id_of: Callable[[int], str],
        title_of: Callable[[str], str],
    ) -> list[Reasons]:
        recent = user.last(HISTORY)
        interactions = zip(recent.item.tolist(), recent.kind.tolist(), strict=True)
        history = [(id_of(item), KINDS[kind]) for item, kind in interactions]
        explanation = scorer.explain(features, self._values(ranked.items[scored]))
        other_parts, factor = {}, 1.0
        if ranked.mix is not None:
            factor = ranked.mix.factor
            explanation = explanation.scaled(factor, ranked.mix.shift)
            other_parts[QUERY] = ranked.mix.query[scored].tolist()
        if ranked.output is not None and ranked.output.feedback is not None:
            other_parts[FEEDBACK] = (factor * ranked.output.feedback[scored]).tolist()
        return explain_scores(explanation, history, title_of, other_parts)

    def _values(self, items: Items) -> Values:
        if self._margins is None:
            return self._head_values
        return {**self._head_values, "purchase": self._head_values.get("purchase", 0.0) * self._margins(items)}

    def _count_failure(self, message: str) -> None:
        self.failures += 1
        FAILURES.inc()
        _log.exception(message)
