"""The stages of the shop's rules: boosts before the list is composed, caps and pins at its end."""

from dataclasses import replace

import numpy as np

from index.top_k import top_k
from serve.recommend.ranking.ranking_stage import RankingState


class BoostStage:
    """Multiplies scores by the factors of rules that boost or bury."""

    name = "boosts"

    def apply(self, state: RankingState) -> RankingState:
        rules, scored = state.request.rules, state.scored
        if rules is None:
            return state
        items, scores = state.ranked.items[:scored], state.scores.copy()
        factors, names = rules.factors(items, state.request.user)
        # Totals of the linear score model are logarithms of odds.
        if state.ranked.output is None:
            scores[:scored] += np.log(factors)
        else:
            scores[:scored] *= factors
        boosted = replace(state, scores=scores, rule_names=names)
        return boosted.move_to_front(top_k(scores[:scored], items, scored))


class ArrangementStage:
    """Caps values, moves pinned items to their positions, and cuts the list to k items."""

    name = "arrangement"

    def apply(self, state: RankingState) -> RankingState:
        rules, k = state.request.rules, state.request.k
        if rules is None:
            return state.take(np.arange(min(k, len(state.ranked))))
        names = {item: list(of_item) for item, of_item in state.rule_names.items()}
        order = rules.arrange(state.ranked.items, k, names, state.pinned)
        ranked = state.ranked
        if ranked.propensities is not None and (order != np.arange(len(order))).any():
            # Items were moved after the draw.
            ranked = replace(ranked, propensities=np.full(len(ranked), np.nan, np.float32))
        return replace(state, ranked=replace(ranked, rules=names), rule_names=names).take(order)
