"""The stages that compose the list: exploration, diversity, category calibration, and quotas.

A list that exploration has drawn stays as it is drawn.
"""

from dataclasses import replace

import numpy as np

from serve.recommend.ranking.category_calibration import calibrate
from serve.recommend.ranking.diversity import diversify
from serve.recommend.ranking.quotas import apply_quota
from serve.recommend.ranking.ranking_stage import RankingState
from serve.recommend.retrieval.linear_score_model import without_interactions


class ExplorationStage:
    """Draws the list at random by the Plackett-Luce policy; marks propensities of Thompson sampling as unknown."""

    name = "exploration"

    def apply(self, state: RankingState) -> RankingState:
        exploration = state.request.exploration
        if exploration is None or state.ranked.output is None:
            return state
        if exploration.policy == "thompson":
            unknown = np.full(len(state.ranked), np.nan, np.float32)
            return replace(state, ranked=replace(state.ranked, propensities=unknown))
        order, propensities = exploration.draw(state.scores[: state.scored], state.request.k)
        drawn = state.take(order)
        return replace(drawn, ranked=replace(drawn.ranked, propensities=propensities), is_drawn=True)


class DiversityStage:
    """Avoids items that are alike. Each item's gain becomes its score, so that later stages keep to diversity."""

    name = "diversity"

    def apply(self, state: RankingState) -> RankingState:
        if state.is_drawn or not state.request.diversity:
            return state
        pool = state.pool
        items = state.ranked.items[:pool]
        vectors = [index.first_vectors(items) for index in state.resources.spaces.values()]
        diverse = diversify(state.scores[:pool], vectors, state.request.k, state.request.diversity)
        scores = np.concatenate([diverse.gains, np.full(len(state.scores) - pool, -np.inf, np.float32)])
        return replace(state, scores=scores, scored=pool).move_to_front(diverse.order)


class CalibrationStage:
    """Mixes categories as the user's history does."""

    name = "calibration"

    def apply(self, state: RankingState) -> RankingState:
        calibration = state.resources.calibration
        if state.is_drawn or calibration is None:
            return state
        shares = calibration.history_shares(state.request.user)
        if not shares:
            return state
        pool = state.pool
        categories = calibration.category_of(state.ranked.items[:pool])
        return state.move_to_front(
            calibrate(state.scores[:pool], categories, shares, state.request.k, calibration.strength)
        )


class LongTailStage:
    """Reserves a share of the positions for long-tail items."""

    name = "long_tail"

    def apply(self, state: RankingState) -> RankingState:
        quota = state.resources.long_tail
        if state.is_drawn or quota is None:
            return state
        return state.move_to_front(apply_quota(quota.mask(state.ranked.candidates), quota.share, state.request.k))


class NewItemStage:
    """Reserves a share of the positions for items without any event, the best first.

    Without this such an item could not show its worth. By default one position in ten is theirs: the tenth, the
    twentieth, and so on.
    """

    name = "new_items"

    def apply(self, state: RankingState) -> RankingState:
        if state.is_drawn or not state.resources.new_share:
            return state
        new = without_interactions(state.ranked.candidates.scores, len(state.ranked))
        return state.move_to_front(apply_quota(new, state.resources.new_share, state.request.k))
