"""Ranking stages: what each one does to the candidates, and that they run in their order."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.behaviour import NOW, user_history

from index.exact_index import ExactIndex
from index.item_mask import ItemMask
from index.space import Space
from serve.recommend.ranking.candidate_scorer import CandidateScorer
from serve.recommend.ranking.candidate_stages import CandidateStage, ScorerStage
from serve.recommend.ranking.category_calibration import CategoryCalibration
from serve.recommend.ranking.exploration import Exploration
from serve.recommend.ranking.list_stages import (
    CalibrationStage,
    DiversityStage,
    ExplorationStage,
    LongTailStage,
    NewItemStage,
)
from serve.recommend.ranking.merchandising_rules import ActiveRules, Rule
from serve.recommend.ranking.pipeline import RankingPipeline
from serve.recommend.ranking.quotas import LongTailQuota
from serve.recommend.ranking.ranked_candidates import RankedCandidates
from serve.recommend.ranking.ranking_stage import RankingRequest, RankingResources, RankingState
from serve.recommend.ranking.rule_stages import ArrangementStage, BoostStage
from serve.recommend.ranking.scorer import ScorerOutput
from serve.recommend.ranking.stage_registry import STAGES, register
from serve.recommend.retrieval.candidates import CandidateGenerator, Candidates
from serve.recommend.retrieval.item_relations import ItemRelations
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.recommend.retrieval.retriever_results import StaticRetriever, order_by_score

ITEMS = 12
POPULARITY = np.array([0, 0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1], np.float32)  # items 0 and 1 have no events
COLOURS = ["red", "red", "red", "red", "red", "red", "blue", "blue", "blue", "blue", "blue", "blue"]


class ByIndex:
    """Stands in for a scorer: the expected value falls with the item index."""

    def score(self, features: np.ndarray, values: Any, correction: Any = None) -> ScorerOutput:
        total = (1 / (1 + features)).astype(np.float32)
        return ScorerOutput(total, {"click": total})


class ItemIndexAsFeature:
    """Stands in for a feature builder."""

    def build(self, user: Any, candidates: Candidates, context: Any, rows: np.ndarray) -> np.ndarray:
        items: np.ndarray = candidates.items[rows]
        return items


def generator() -> CandidateGenerator:
    retriever = StaticRetriever(POPULARITY, order_by_score(POPULARITY))
    return CandidateGenerator({"popularity": retriever}, LinearScoreModel(), ITEMS)


def resources(**options: Any) -> RankingResources:
    return RankingResources(generator(), CandidateScorer(None, None, {}), **options)


def state(items: list[int], scores: list[float], k: int = 4, scored: bool = True, **given: Any) -> RankingState:
    """Candidates in this order; with a scorer's output, if `scored`."""
    request = {name: given.pop(name) for name in ("rules", "exploration", "diversity") if name in given}
    values = np.array(scores, np.float32)
    taken = np.array(items, np.int64)
    candidates = Candidates(taken, values, {"popularity": POPULARITY[taken]}, {})
    output = ScorerOutput(values, {}) if scored else None
    return RankingState(
        RankingRequest(user_history([]), k, np.empty(0, np.int64), NOW, **request),
        resources(**given),
        RankedCandidates(candidates, output),
        values,
        len(items),
    )


def rules(*listed: Mapping[str, Any]) -> ActiveRules:
    def mask(conditions: Mapping[str, Any]) -> np.ndarray:
        return np.array([colour == conditions["category"] for colour in COLOURS])

    def column(name: str, items: np.ndarray) -> list[str | None]:
        return [COLOURS[item] for item in items.tolist()]

    found = [Rule.model_validate({"name": f"rule {number}", **rule}) for number, rule in enumerate(listed)]
    return ActiveRules(found, NOW, mask, column, np.zeros(ITEMS), int, str, ItemRelations())


def begun(k: int = 4, excluded: list[int] | None = None, **request: Any) -> RankingState:
    left_out = np.array(excluded or [], np.int64)
    return RankingState.start(RankingRequest(user_history([]), k, left_out, NOW, **request), resources())


def test_candidates_are_generated_without_what_may_not_be_returned() -> None:
    allowed = ItemMask(np.arange(ITEMS) < 6)
    after = CandidateStage().apply(begun(excluded=[2], allowed=allowed))
    assert after.ranked.items.tolist() == [3, 4, 5, 0]
    assert after.scored == len(after.scores) == 4
    hidden = CandidateStage().apply(begun(k=3, rules=rules({"do": "hide", "where": {"category": "red"}})))
    assert hidden.ranked.items.tolist() == [6, 7, 8, 9, 10, 11]
    pins = rules({"do": "pin", "items": ["0", "2"]}, {"do": "hide", "where": {"category": "blue"}})
    pinned = CandidateStage().apply(begun(k=3, excluded=[2], rules=pins))
    assert set(pinned.pinned) == {0}
    assert 0 in pinned.ranked.items.tolist()


def test_the_scorer_orders_the_candidates_and_the_others_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.recommend.ranking.candidate_stages.MAX_SCORED", 3)
    before = CandidateStage().apply(begun(k=11))
    scorer: Any = CandidateScorer(ItemIndexAsFeature(), ByIndex(), {"click": 1.0})  # type: ignore[arg-type]
    after = ScorerStage().apply(replace(before, resources=replace(before.resources, scorer=scorer, new_share=0.1)))
    assert after.scored == 4  # three, and an item without events for the quota
    assert after.ranked.items.tolist()[:4] == [0, 2, 3, 4]
    assert (after.scores[:4] > 0).all()
    assert (after.scores[4:] == -np.inf).all()
    assert ScorerStage().apply(before).ranked.items.tolist() == before.ranked.items.tolist()


def test_boosts_change_scores_and_order() -> None:
    boost = {"do": "boost", "where": {"category": "blue"}, "factor": 3.0}
    after = BoostStage().apply(state([2, 3, 6], [0.4, 0.3, 0.2], rules=rules(boost)))
    assert after.ranked.items.tolist() == [6, 2, 3]
    np.testing.assert_allclose(after.scores, [0.6, 0.4, 0.3])
    assert after.rule_names == {6: ["rule 0"]}
    without_scorer = BoostStage().apply(state([2, 3, 6], [1.0, 0.5, 0.0], scored=False, rules=rules(boost)))
    np.testing.assert_allclose(without_scorer.scores, [np.log(3), 1.0, 0.5], rtol=1e-6)


def test_a_drawn_list_stays_as_it_is_drawn() -> None:
    random = np.random.default_rng(0)
    before = state([2, 3, 6, 7, 8], [0.5, 0.5, 0.5, 0.5, 0.1], 2, exploration=Exploration("plackett_luce", random))
    drawn = ExplorationStage().apply(before)
    assert drawn.is_drawn
    assert len(drawn.ranked) == 2
    assert drawn.ranked.propensities is not None
    np.testing.assert_allclose(drawn.ranked.propensities, [1 / 4, 1 / 3], rtol=1e-6)
    for stage in (DiversityStage(), CalibrationStage(), LongTailStage(), NewItemStage()):
        assert stage.apply(drawn) is drawn
    thompson = ExplorationStage().apply(state([2, 3], [0.5, 0.4], exploration=Exploration("thompson", random)))
    assert thompson.ranked.items.tolist() == [2, 3]
    assert not thompson.is_drawn
    assert thompson.ranked.propensities is not None
    assert np.isnan(thompson.ranked.propensities).all()


def spaces() -> dict[str, ExactIndex]:
    """Items are alike if their indices are equal modulo 3."""
    vectors = np.eye(3, dtype=np.float32)[np.arange(ITEMS) % 3]
    owners = np.arange(ITEMS, dtype=np.int32)
    return {"text": ExactIndex(Space("text", 3, "x"), vectors, owners, owners, ITEMS)}


def test_diversity_avoids_items_that_are_alike_and_hands_on_its_gains() -> None:
    after = DiversityStage().apply(state([3, 6, 9, 4, 5], [1.0, 0.9, 0.8, 0.7, 0.0], 3, diversity=0.5, spaces=spaces()))
    assert after.ranked.items.tolist() == [3, 4, 5, 6, 9]
    assert (np.diff(after.scores) <= 0).all()
    np.testing.assert_allclose(after.scores, [0.5, 0.35, 0.0, -0.05, -0.1], atol=1e-6)


def by_colour(strength: float) -> CategoryCalibration:
    return CategoryCalibration(strength, lambda items: [COLOURS[item] for item in items.tolist()])


def test_calibration_mixes_categories_as_the_history_does() -> None:
    before = state([6, 7, 8, 2, 3], [1.0, 0.9, 0.8, 0.1, 0.0], 3, calibration=by_colour(0.9))
    assert CalibrationStage().apply(before) is before  # no history
    user = user_history([4, 5, 9])
    after = CalibrationStage().apply(replace(before, request=replace(before.request, user=user)))
    assert after.ranked.items.tolist()[:3] == [2, 6, 3]  # red, blue, red


def test_calibration_after_diversity_goes_by_the_scores_of_the_items_themselves() -> None:
    """Whatever order diversity leaves, each item keeps its own score: the worst item does not get the second best."""
    before = state(
        [2, 5, 8, 7, 6],
        [1.0, 0.95, 0.9, 0.85, 0.0],
        2,
        diversity=0.1,
        spaces=spaces(),
        calibration=by_colour(0.4),
    )
    before = replace(before, request=replace(before.request, user=user_history([4, 9])))
    diverse = DiversityStage().apply(before)
    assert diverse.ranked.items.tolist()[:2] == [2, 7]
    scores = dict(zip(diverse.ranked.items.tolist(), diverse.scores.tolist(), strict=True))
    assert min(scores, key=lambda item: scores[item]) == 6
    both = CalibrationStage().apply(diverse)
    assert both.ranked.items.tolist()[:2] == [2, 7]  # diversity holds: 8 is better, and more like 2
    again = dict(zip(both.ranked.items.tolist(), both.scores.tolist(), strict=True))
    assert again == scores


def test_quotas_reserve_positions() -> None:
    tail = LongTailStage().apply(state([2, 3, 4, 9, 10], [5, 4, 3, 2, 1], 4, long_tail=LongTailQuota(0.5, 3.0)))
    assert tail.ranked.items.tolist() == [2, 9, 3, 10, 4]
    new = NewItemStage().apply(state([2, 3, 4, 5, 0, 1], [5, 4, 3, 2, 1, 0], 4, new_share=0.25))
    assert new.ranked.items.tolist() == [2, 3, 4, 0, 5, 1]
    none = state([2, 0], [1, 0])
    assert LongTailStage().apply(none) is none
    assert NewItemStage().apply(none) is none


def test_arrangement_pins_caps_and_cuts() -> None:
    plain = ArrangementStage().apply(state([2, 3, 6, 7, 8], [5, 4, 3, 2, 1], 3))
    assert plain.ranked.items.tolist() == [2, 3, 6]
    cap = rules({"do": "cap", "by": "category", "most": 1})
    capped = replace(state([2, 3, 6, 7], [5, 4, 3, 2], 2, rules=cap), pinned={7: (0, "offer")})
    after = ArrangementStage().apply(capped)
    assert after.ranked.items.tolist() == [7, 2]
    assert after.ranked.rules == {3: ["rule 0"], 7: ["offer"]}
    likely = replace(capped, ranked=replace(capped.ranked, propensities=np.ones(4, np.float32)))
    moved = ArrangementStage().apply(likely).ranked.propensities
    assert moved is not None
    assert np.isnan(moved).all()


def test_stages_run_in_the_order_of_the_registry() -> None:
    assert [stage.name for stage in STAGES] == [
        *("candidates", "scorer", "boosts", "exploration", "diversity"),
        *("calibration", "long_tail", "new_items", "arrangement"),
    ]
    with pytest.raises(ValueError, match="two ranking stages are named 'diversity'"):
        register(DiversityStage())
    pipeline = RankingPipeline(generator(), None, None, {}, 0.25)
    ranked = pipeline.recommend(user_history([]), 11, np.array([2]), NOW)
    assert ranked.items.tolist() == [3, 4, 5, 0, 6, 7, 8, 1, 9, 10, 11]
