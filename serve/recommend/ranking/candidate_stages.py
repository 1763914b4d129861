"""The first stages: candidates are generated, then scored."""

from dataclasses import replace

import numpy as np

from serve.recommend.ranking.ranked_candidates import RankedCandidates
from serve.recommend.ranking.ranking_stage import MAX_SCORED, RankingState
from serve.recommend.retrieval.candidates import DEPTH
from serve.recommend.retrieval.linear_score_model import without_interactions


class CandidateStage:
    """Generates candidates, without what rules hide and with what they pin; k whenever there are k."""

    name = "candidates"

    def apply(self, state: RankingState) -> RankingState:
        request, generator = state.request, state.resources.generator
        allowed, pinned = request.allowed, dict[int, tuple[int, str]]()
        if request.rules is not None:
            hidden = request.rules.hidden(request.user)
            if hidden is not None:
                allowed = generator.without(hidden, allowed)
            pinned = request.rules.pinned(request.excluded)
            if allowed is not None:
                pinned = {item: pin for item, pin in pinned.items() if allowed.mask[item]}
        extra = np.array(sorted(pinned), np.int64) if pinned else None
        depth = max(request.k, DEPTH)
        candidates = generator.generate(request.user, depth, request.excluded, allowed, extra)
        if len(candidates) < request.k:
            candidates = generator.fill(candidates, request.user, request.k, request.excluded, allowed)
        return replace(
            state,
            ranked=RankedCandidates(candidates),
            scores=candidates.total,
            scored=len(candidates),
            pinned=pinned,
        )


class ScorerStage:
    """Orders the best candidates by the scorer, together with pinned items and those that the new-item quota may need.

    A policy of Thompson sampling draws the probabilities at random.
    """

    name = "scorer"

    def apply(self, state: RankingState) -> RankingState:
        request, candidates = state.request, state.ranked.candidates
        new = np.flatnonzero(without_interactions(candidates.scores, len(candidates)))
        new = new[: round(request.k * state.resources.new_share)]
        pinned = np.flatnonzero(np.isin(candidates.items, list(state.pinned)))
        best = np.arange(min(MAX_SCORED, len(candidates)))
        rows = np.unique(np.concatenate([best, new, pinned]))
        exploration = request.exploration
        random = exploration.random if exploration is not None and exploration.policy == "thompson" else None
        ranked = state.resources.scorer.rank(request.user, candidates, rows, request.now, random)
        if ranked.output is None:
            return replace(state, ranked=ranked, scores=ranked.candidates.total)
        scores = np.where(np.isnan(ranked.output.total), -np.inf, ranked.output.total).astype(np.float32)
        return replace(state, ranked=ranked, scores=scores, scored=len(rows))
