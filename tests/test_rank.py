"""Ranking: what features say, what the scorer learns and exports, where scores come from, and what failures do."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers.behaviour import NOW, interactions, some_rows, user_history
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embed.behaviour import Event, Signal, as_batch
from embed.behaviour.interactions import KINDS
from embed.errors import BadInput, Damaged, Missing
from embed.training_loop import fit
from serve.core.errors import BadRequest
from serve.core.ranking_settings import HEADS, ScorerSettings
from serve.recommend.ranking.diversity import diversify
from serve.recommend.ranking.feature import HISTORY, FeatureContext
from serve.recommend.ranking.feature_builder import FeatureBuilder, FeatureLayout, FeatureMatrix
from serve.recommend.ranking.impressions import HEAD_EVENTS, HORIZON, read_impressions
from serve.recommend.ranking.item_signals import TAG_GROUPS, ItemSignals, ItemTags
from serve.recommend.ranking.merchandising_rules import ActiveRules, RulesFile, read_rules
from serve.recommend.ranking.pipeline import RankingPipeline
from serve.recommend.ranking.quotas import apply_quota
from serve.recommend.ranking.scorer import HeadMetrics, Scorer, ScorerMetadata
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.covisitation import Covisitation
from serve.recommend.retrieval.item_relations import ItemRelations, read_relations
from serve.recommend.retrieval.linear_score_model import LinearScoreModel
from serve.recommend.retrieval.retriever_results import StaticRetriever, order_by_score
from serve.training.onnx_export import export
from serve.training.ranking_examples import Examples, LabelledList
from serve.training.scorer_trainer import Calibration, ScorerTrainer
from serve.training.scorer_validation import auc, calibration_error

LAYOUT = FeatureLayout(("image", "text"))
VALUES = {"click": 1.0, "purchase": 10.0}
IDS = pa.array([f"i{number}" for number in range(4)])

some_events = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 4),
        st.sampled_from(["impression", "impression", "click", "purchase", "rating"]),
        st.integers(0, 40),
        st.sampled_from([2.0, 5.0]),
    ),
    max_size=30,
)


@given(some_events)
@settings(max_examples=200, deadline=None)
def test_an_act_is_put_down_to_the_latest_showing_before_it(rows: list[tuple[int, int, str, int, float]]) -> None:
    step = HORIZON / 10
    events = [
        Event(f"e{place}", f"u{user}", f"i{item}", type_, NOW + step * time, value if type_ == "rating" else None)
        for place, (user, item, type_, time, value) in enumerate(rows)
    ]
    found = read_impressions([as_batch(events)], IDS, Signal(), NOW + step, NOW + 30 * step)
    expected: dict[tuple[str, str, float], set[str]] = {}
    for event in events:
        if event.type == "impression" and event.item_id != "i4" and NOW + step <= event.timestamp < NOW + 30 * step:
            expected.setdefault((event.user_id, event.item_id, event.timestamp), set())
    for event in events:
        before = [
            time
            for user, item, time in expected
            if (user, item) == (event.user_id, event.item_id) and 0 <= event.timestamp - time <= HORIZON
        ]
        if before and event.type != "impression" and event.timestamp < NOW + 30 * step + HORIZON:
            liked = event.type != "rating" or (event.value or 0) >= 4
            expected[event.user_id, event.item_id, max(before)] |= {
                head for head in HEADS if event.type in HEAD_EVENTS[head] and liked
            }
    told: dict[tuple[str, str, float], set[str]] = {}
    for number in range(len(found)):
        for row in range(found.starts[number], found.starts[number + 1]):
            key = found.users[number], f"i{found.item[row]}", found.times[number]
            came = {head for head, of in zip(HEADS, found.labels[row], strict=True) if of}
            told[key] = told.get(key, set()) | came
    assert told == expected


tags_of_items = st.lists(st.lists(st.integers(1, 9), max_size=4, unique=True), min_size=1, max_size=6)
GROUP_OF_TAG = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])


def facts(tags: list[list[int]]) -> ItemSignals:
    count = len(tags)
    starts = np.concatenate([[0], np.cumsum([len(of) for of in tags])]).astype(np.int64)
    numbers = np.array([tag for of in tags for tag in of], np.int64)
    prices = np.arange(count, dtype=np.float32)
    return ItemSignals(
        prices, np.zeros(count, np.float32), np.full(count, np.nan), ItemTags(numbers, starts, GROUP_OF_TAG)
    )


@given(tags_of_items, tags_of_items)
@settings(max_examples=200, deadline=None)
def test_shared_tags_are_counted(items: list[list[int]], others: list[list[int]]) -> None:
    found = facts(items).shared_tags(facts(others))
    assert found.shape == (len(items), len(others), len(TAG_GROUPS))
    for one, tags in enumerate(items):
        for other, theirs in enumerate(others):
            for group in range(len(TAG_GROUPS)):
                own = [tag for tag in tags if GROUP_OF_TAG[tag] == group]
                share = sum(tag in theirs for tag in own) / len(own) if own else 0
                assert found[one, other, group] == pytest.approx(share)
    order = np.arange(len(items))[::-1]
    np.testing.assert_array_equal(facts(items).take(order).shared_tags(facts(others)), found[order])
    np.testing.assert_array_equal(
        ItemSignals.concatenate([facts(items), facts(others)]).take(order).shared_tags(facts(others)), found[order]
    )


@given(some_rows, st.lists(st.integers(0, 7), max_size=5))
@settings(max_examples=100, deadline=None)
def test_covisits_by_pair_are_what_a_history_of_one_reaches(
    rows: list[tuple[int, int, float, float]], history: list[int]
) -> None:
    counted = Covisitation.count(interactions(rows), NOW, 30.0)
    pairs = counted.score_pairs(np.array([*history, -1], np.int64), np.arange(8))
    assert not pairs[:, -1].any()
    for place, item in enumerate(history):
        reached, scores = counted.score_history(np.array([item]), np.ones(1, np.float32))
        expected = np.zeros(8, np.float32)
        expected[reached] = scores
        np.testing.assert_allclose(pairs[:, place], expected)


def drawn(rows: int, seed: int = 0, sampled: float = 1.0) -> Examples:
    """Candidates that are clicked and bought by their tower score and by a channel of the last of their history.

    Only the part `sampled` of those that nothing comes of is there.
    """
    random = np.random.default_rng(seed)
    values = random.normal(size=(rows, len(LAYOUT.names))).astype(np.float32)
    values[random.random(values.shape) < 0.2] = np.nan
    pairs = random.normal(size=(rows, HISTORY, len(LAYOUT.channels))).astype(np.float16)
    there = (np.arange(HISTORY) >= random.integers(0, HISTORY, rows)[:, None]).astype(np.float32)
    merit = np.nan_to_num(values[:, LAYOUT.names.index("tower")]) + 1.5 * pairs[:, -1, 0] * there[:, -1] - 2
    labels = np.zeros((rows, len(HEADS)), np.bool_)
    labels[:, 0] = random.random(rows) < 1 / (1 + np.exp(-merit))
    labels[:, 2] = labels[:, 0] & (random.random(rows) < 0.3)
    kept = labels.any(1) | (random.random(rows) < sampled)
    case = np.arange(rows)[kept]
    gaps = random.exponential(1e5, (rows, HISTORY)).astype(np.float32)
    return Examples(
        values[kept],
        pairs[kept],
        case,
        labels[kept],
        np.ones(len(case), np.float32),
        np.ones(len(case), np.bool_),
        np.full(len(case), -np.log(sampled), np.float32),
        random.integers(0, len(KINDS), (rows, HISTORY)),
        gaps,
        there,
    )


def test_rows_count_by_the_inverse_of_place_and_propensity_where_that_is_wanted() -> None:
    rows = 4
    features = FeatureMatrix(
        np.zeros((rows, len(LAYOUT.names)), np.float32),
        np.zeros((rows, 0, len(LAYOUT.channels)), np.float32),
        np.empty(0, np.int64),
        np.empty(0, np.float32),
    )
    labels = np.zeros((rows, len(HEADS)), np.bool_)
    labels[:2, 0] = True
    case = LabelledList(
        features,
        labels,
        np.array([True, True, True, False]),
        np.array([0, 3, 3, np.nan], np.float32),
        np.array([0.5, 0.01, np.nan, np.nan], np.float32),
        np.zeros(rows, np.float32),
    )

    def weights(**settings: Any) -> list[float]:
        found: list[float] = Examples.stacked(iter([case]), LAYOUT, ScorerSettings(**settings)).weight.tolist()
        return found

    assert weights() == [1, 1, 1, 1]
    assert weights(inverse_propensity=True) == [2, 10, 1, 1]
    assert weights(position_power=0.5) == [1, 2, 1, 1]
    assert weights(position_power=0.5, inverse_propensity=True) == [2, 20, 1, 1]


def trained(folder: Path, examples: Examples, epochs: int = 6) -> ScorerTrainer:
    torch.set_num_threads(1)
    trainer = ScorerTrainer(
        ScorerSettings(epochs=epochs, batch_size=128, learning_rate=0.01),
        LAYOUT,
        examples,
        ["click", "purchase"],
        LinearScoreModel(),
    )
    fit(trainer, folder, epochs)
    return trainer


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[ScorerTrainer, Scorer]:
    trainer = trained(tmp_path_factory.mktemp("scorer"), drawn(6000))
    head = {"slope": 1.1, "offset": -0.2, "outcomes": 1, "auc": 0.5, "log_loss": 0, "base_log_loss": 0, "ece": 0}
    told = ScorerMetadata(
        spaces=LAYOUT.spaces,
        columns=LAYOUT.names,
        towers="t",
        usual_position=trainer.usual_position,
        heads={name: HeadMetrics(**head) for name in ("click", "purchase")},
        rows=6000,
        cases=6000,
        epochs=6,
        settings={},
    )
    return trainer, Scorer(told, export(trainer.network))


def some_features(seed: int, m: int = 20, h: int = 7) -> FeatureMatrix:
    random = np.random.default_rng(seed)
    values = random.normal(size=(m, len(LAYOUT.names))).astype(np.float32)
    values[random.random(values.shape) < 0.2] = np.nan
    return FeatureMatrix(
        values,
        random.normal(size=(m, h, len(LAYOUT.channels))).astype(np.float32),
        random.integers(0, len(KINDS), h),
        random.exponential(1e5, h).astype(np.float32),
    )


def test_the_scorer_learns_what_decides_and_a_head_by_head(learned: tuple[ScorerTrainer, Scorer]) -> None:
    trainer, _ = learned
    held = drawn(4000, seed=1)
    logits = trainer.logits(held)
    assert auc(held.labels[:, 0], logits[:, 0]) > 0.78
    assert auc(held.labels[:, 2], logits[:, 1]) > 0.72
    assert calibration_error(held.labels[:, 0], 1 / (1 + np.exp(-logits[:, 0]))) < 0.05


def test_what_is_learned_of_a_part_of_the_negatives_holds_for_all(tmp_path: Path) -> None:
    trainer = trained(tmp_path, drawn(20_000, sampled=0.2))
    held = drawn(6000, seed=1)
    logits = trainer.logits(held)[:, 0]
    assert (1 / (1 + np.exp(-logits))).mean() == pytest.approx(held.labels[:, 0].mean(), rel=0.15)
    again = Calibration.fit(logits, held.labels[:, 0], held.offset)
    assert again.slope == pytest.approx(1, abs=0.25)
    assert again.offset == pytest.approx(0, abs=0.3)


def test_training_goes_on_after_a_kill_as_if_there_had_been_none(tmp_path: Path) -> None:
    examples = drawn(1500)
    straight = trained(tmp_path / "straight", examples, epochs=4)
    broken = ScorerTrainer(
        ScorerSettings(epochs=4, batch_size=128, learning_rate=0.01),
        LAYOUT,
        examples,
        ["click", "purchase"],
        LinearScoreModel(),
    )
    with pytest.raises(KeyboardInterrupt):
        fit(broken, tmp_path / "broken", 4, on_epoch=lambda epoch, _: interrupt() if epoch == 2 else None)
    again = trained(tmp_path / "broken", examples, epochs=4)
    for one, other in zip(straight.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("h", [0, 1, HISTORY])
def test_what_serves_scores_as_what_was_trained(learned: tuple[ScorerTrainer, Scorer], h: int) -> None:
    trainer, scorer = learned
    features = some_features(3, h=h)
    m, pad = len(features), HISTORY - h
    examples = Examples(
        features.values,
        np.pad(features.pairs, ((0, 0), (pad, 0), (0, 0))),  # type: ignore[arg-type]
        np.zeros(m, np.int64),
        np.zeros((m, len(HEADS)), np.bool_),
        np.ones(m, np.float32),
        np.ones(m, np.bool_),
        np.zeros(m, np.float32),
        np.pad(features.kinds, (pad, 0))[None],
        np.pad(features.gaps, (pad, 0))[None],
        np.pad(np.ones(h, np.float32), (pad, 0))[None],
    )
    probabilities = 1 / (1 + np.exp(-(1.1 * trainer.logits(examples) - 0.2)))
    found = scorer.score(features, VALUES)
    np.testing.assert_allclose(found.heads["click"], probabilities[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.total, probabilities @ [1, 10], atol=1e-3)


def test_a_column_that_training_never_knew_says_nothing(tmp_path: Path) -> None:
    examples = drawn(600)
    column = LAYOUT.names.index("hour_sine")
    examples.values[:, column] = np.nan
    trainer = trained(tmp_path, examples, epochs=1)
    asked = drawn(100, seed=1)
    asked.values[:, column] = np.nan
    without = trainer.logits(asked)
    asked.values[:, column] = 1
    np.testing.assert_array_equal(trainer.logits(asked), without)


def test_parts_add_up_to_the_score(learned: tuple[ScorerTrainer, Scorer]) -> None:
    _, scorer = learned
    for seed in range(50):
        features = some_features(seed, m=20, h=seed % HISTORY)
        explained = scorer.explain(features, VALUES)
        np.testing.assert_allclose(explained.output.total, scorer.score(features, VALUES).total, atol=1e-4)
        total = explained.base + explained.groups.sum(1) + explained.history.sum(1)
        np.testing.assert_allclose(total, explained.output.total, atol=1e-4)


def test_what_is_not_known_adds_nothing_and_no_score_is_ever_nan(learned: tuple[ScorerTrainer, Scorer]) -> None:
    _, scorer = learned
    features = some_features(5)
    features.values[:, LAYOUT.groups["price"]] = np.nan
    explained = scorer.explain(features, VALUES)
    assert not explained.groups[:, list(LAYOUT.groups).index("price")].any()
    assert not explained.groups[:, list(LAYOUT.groups).index("position")].any()
    for bad in (np.nan, np.inf, -np.inf):
        features.values[:] = bad
        features.pairs[:, 2] = bad
        found = scorer.score(features, VALUES).total
        assert np.isfinite(found).all()
        assert np.isfinite(scorer.explain(features, VALUES).groups).all()


def test_scorers_are_kept_whole_and_refused_with_a_flipped_bit(
    learned: tuple[ScorerTrainer, Scorer], tmp_path: Path
) -> None:
    _, scorer = learned
    folder = scorer.save(tmp_path)
    features = some_features(1)
    again = Scorer.open(folder)
    np.testing.assert_array_equal(again.score(features, VALUES).total, scorer.score(features, VALUES).total)
    for name in ("scorer.json", "features.onnx", "history.onnx"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:60] + bytes([data[60] ^ 4]) + data[61:])
        with pytest.raises(Damaged):
            Scorer.open(folder)
        (folder / name).write_bytes(data)
    (folder / "history.onnx").unlink()
    with pytest.raises(Missing, match=folder.name):
        Scorer.open(folder)


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 40), st.sampled_from([0.0, 0.1, 0.25, 0.5]))
def test_a_share_of_the_places_is_kept_for_what_nobody_had(new: list[bool], k: int, share: float) -> None:
    order = apply_quota(np.array(new, np.bool_), share, k).tolist()
    assert len(order) == len(set(order)) == min(k, len(new))
    for kind in (True, False):  # among their like nothing changes places
        of_kind = [place for place in order if new[place] == kind]
        assert of_kind == [place for place in range(len(new)) if new[place] == kind][: len(of_kind)]
    for first in range(1, len(order) + 1):
        assert sum(new[place] for place in order[:first]) >= min(sum(new), int(first * share + 1e-9))
    if not share:
        assert order == list(range(len(new)))[:k]


def unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 14), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
@settings(max_examples=100, deadline=None)
def test_each_item_of_a_diverse_list_is_the_best_next_one(seed: int, m: int, k: int, diversity: float) -> None:
    random = np.random.default_rng(seed)
    scores = random.normal(size=m).astype(np.float32)
    spaces = [unit(random.normal(size=(m, 4))), unit(random.normal(size=(m, 3)))]
    spaces[1][random.random(m) < 0.3] = 0
    diverse = diversify(scores, spaces, k, diversity)
    order = diverse.order.tolist()
    assert (np.diff(diverse.gains[order]) <= 0).all()
    assert diverse.gains.max() == diverse.gains[order[0]]
    assert len(order) == len(set(order)) == min(k, m)
    relevance = (scores - scores.min()) / (np.ptp(scores) or 1) if np.ptp(scores) else np.ones(m)

    def alike(one: int, other: int) -> float:
        cosines = [of[one] @ of[other] for of in spaces if of[one].any() and of[other].any()]
        return float(np.mean(cosines)) if cosines else 0.0

    for place, item in enumerate(order):
        left = [other for other in range(m) if other not in order[:place]]
        gains = {
            other: (1 - diversity) * relevance[other]
            - (diversity * max(alike(other, chosen) for chosen in order[:place]) if place else 0)
            for other in left
        }
        assert gains[item] == pytest.approx(max(gains.values()), abs=1e-4)
    if not diversity:
        assert order == (-scores).argsort(kind="stable")[:k].tolist()


RULES = """
[[rule]]
name = "no hats"
do = "hide"
where = { category = "Hats" }

[[rule]]
name = "own brand"
do = "boost"
where = { brand = "Ours" }
factor = 100

[[rule]]
name = "two of a brand"
do = "cap"
by = "brand"
most = 2

[[rule]]
name = "offer"
do = "pin"
items = ["i0", "nothing", "i3"]
at = 2

[[rule]]
name = "over"
do = "hide"
where = { brand = "Ours" }
until = 2020-01-01
"""


def test_rules_act_in_their_order_and_are_named(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    brands = ["Ours", "Theirs", "Theirs", "Theirs", None, None, "Ours", "Theirs"]
    masks = {"Hats": np.arange(8) == 5, "Ours": np.array([brand == "Ours" for brand in brands])}

    def mask_of(conditions: Mapping[str, Any]) -> NDArray[np.bool_]:
        return masks[next(iter(conditions.values()))]

    def column(name: str, items: NDArray[np.int64]) -> list[str | None]:
        assert name == "brand"
        return [brands[item] for item in items.tolist()]

    def number_of(item_id: str) -> int | None:
        return int(item_id[1:]) if item_id[1:].isdigit() else None

    acting = ActiveRules(read_rules(file), NOW, mask_of, column, np.full(8, np.nan), number_of, str, ItemRelations())
    ranked = small_shop(None).recommend(user_history([]), 7, np.array([3]), NOW, rules=acting)
    # By popularity 7 6 5 4 2 1 0; 5 is hidden, 6 and 0 come first, 1 is the third of its brand, 0 is pinned to 2.
    assert ranked.items.tolist() == [6, 0, 7, 4, 2, 1]
    assert ranked.rules == {6: ["own brand"], 0: ["own brand", "offer"]}
    again = small_shop(None).recommend(user_history([]), 4, np.array([3, 6, 4]), NOW, rules=acting)
    assert again.items.tolist() == [7, 0, 2, 1]


def test_rules_may_be_for_who_bought_something_and_for_what_is_new(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(
        "[[rule]]\nname = 'fits'\ndo = 'boost'\nwhere = { category = 'Bags' }\nbought = { category = 'Cameras' }\n"
        "factor = 50.0\n[[rule]]\nname = 'old'\ndo = 'bury'\nnewer_than_days = 3\nfactor = 1000.0\n"
    )
    masks = {"Bags": np.arange(8) == 2, "Cameras": np.arange(8) == 1}
    seen = np.where(np.arange(8) == 7, NOW - 86_400, NOW - 86_400 * 9)
    acting = ActiveRules(
        read_rules(file), NOW, lambda of: masks[of["category"]], lambda *_: [], seen, int, str, ItemRelations()
    )
    bought, looked = user_history([1]), user_history([1])
    bought.kind[:] = KINDS.index("purchase")
    found = small_shop(None).recommend(looked, 7, np.array([1]), NOW, rules=acting)
    assert found.items.tolist() == [6, 5, 4, 3, 2, 0, 7]
    found = small_shop(None).recommend(bought, 7, np.array([1]), NOW, rules=acting)
    assert found.items.tolist() == [2, 6, 5, 4, 3, 0, 7]
    assert found.rules == {2: ["fits"], 7: ["old"]}


def test_a_rule_may_go_by_the_shops_table_of_relations(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(
        "[[rule]]\nname = 'fits'\ndo = 'boost'\nrelated = 'accessory'\nfactor = 50.0\n"
    )
    table = tmp_path / "relations.csv"
    table.write_text(
        "item_id,relation,related_id\n1,accessory,2\n1,substitute,3\n1,accessory,gone\n4,accessory,5\n1,,6\n"
    )
    book = RulesFile(tmp_path / "rules.toml")
    bought = user_history([1])
    bought.kind[:] = KINDS.index("purchase")

    def number_of(item_id: str) -> int | None:
        return int(item_id) if item_id.isdigit() else None

    def first(of: Any) -> tuple[int, Mapping[int, Any]]:
        rules, related = book.current()
        acting = ActiveRules(
            rules, NOW, lambda _: np.ones(8, np.bool_), lambda *_: [], np.zeros(8), number_of, str, related
        )
        found = small_shop(None).recommend(of, 7, np.array([1]), NOW, rules=acting)
        return int(found.items[0]), found.rules

    assert first(user_history([1])) == (7, {})
    assert first(bought) == (2, {2: ["fits"]})
    assert book.current()[1].skipped == 1
    table.write_text("item_id,relation,related_id\n1,accessory,3\n")
    assert first(bought) == (3, {3: ["fits"]})
    table.write_text("item_id,related_id\n1,4\n")
    with pytest.raises(BadInput, match="no column 'relation'"):
        read_relations(table)
    assert first(bought) == (3, {3: ["fits"]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rule]]\nname = 'a'\ndo = 'hid'", r"rule 1 \('a'\): do"),
        ("[[rule]]\nname = 'a'\ndo = 'hide'", "hide needs where"),
        ("[[rule]]\nname = 'a'\ndo = 'pin'", "pin needs items"),
        ("[[rule]]\nname = 'a'\ndo = 'cap'\nfactor = 2.0", "factor has no effect with do = 'cap'"),
        ("[[rule]]\nname = 'a'\ndo = 'hide'\nwhere = { colour = 'red' }", "unknown column 'colour'"),
        ("[[rule]]\nname = 'a'\ndo = 'cap'\nfrom = 2026-01-02\nuntil = 2026-01-01", "is not after"),
        ("[[rules]]\nname = 'a'", "write each rule as"),
        ("[[rule]\n", "is not valid TOML"),
        ("rule = 3", "each written as"),
    ],
)
def test_a_mistake_in_the_rules_is_named_and_the_rules_of_before_stay(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "rules.toml"
    book = RulesFile(file)
    assert book.current()[0] == []
    file.write_text(RULES)
    before = book.current()
    assert len(before[0]) == 5
    file.write_text(text)
    with pytest.raises(BadRequest, match=said):
        read_rules(file)
    assert book.current() == before


class _Failing:
    """Stands in for a scorer that fails for a request."""

    def score(self, features: FeatureMatrix, values: Mapping[str, float]) -> Any:
        raise RuntimeError("no such input")


def small_shop(scorer: Any) -> RankingPipeline:
    rows = [(user, (user + step) % 8, float(step), 1.0) for user in range(5) for step in range(4)]
    counted = Covisitation.count(interactions(rows), NOW, 30.0)
    scores = np.arange(8, dtype=np.float32)
    recommender = CandidateGenerator(
        {"popularity": StaticRetriever(scores, order_by_score(scores))}, LinearScoreModel(), 8
    )
    builder = FeatureBuilder(
        {}, facts([[1 + number] for number in range(8)]).take, counted, LinearScoreModel().smoothing
    )
    return RankingPipeline(recommender, builder, scorer, VALUES)


def test_where_the_scorer_fails_the_blended_order_stands(caplog: pytest.LogCaptureFixture) -> None:
    ranker = small_shop(_Failing())
    found = ranker.recommend(user_history([3, 5]), 4, np.array([3, 5]), NOW)
    assert found.output is None
    assert found.items.tolist() == [7, 6, 4, 2]
    assert ranker.rank(user_history([]), np.array([1, 4]), NOW).items.tolist() == [4, 1]
    assert ranker.failures == 2
    assert "the order of the linear score model stands" in caplog.text


def test_features_say_what_is_known_and_nan_for_what_is_not() -> None:
    counted = Covisitation.count(interactions([(0, 1, 0.0, 1.0), (0, 2, 0.0, 1.0)]), NOW, 30.0)
    builder = FeatureBuilder({}, facts([[1, 4]] * 4 + [[2, 5]] * 4).take, counted, LinearScoreModel().smoothing)
    scores = np.array([0, 5, 3, 0, 0, 0, 0, 2], np.float32)
    recommender = CandidateGenerator(
        {"popularity": StaticRetriever(scores, order_by_score(scores))}, LinearScoreModel(), 8
    )
    found = recommender.generate(user_history([1]), 10, np.array([1]), extra=np.array([5]))
    made = builder.build(user_history([1]), found, FeatureContext(NOW))
    names = builder.layout.names
    told = {
        number: dict(zip(names, row, strict=True))
        for number, row in zip(found.items.tolist(), made.values.tolist(), strict=True)
    }
    assert told[2]["popularity"] == pytest.approx(np.log(4))
    assert told[2]["popularity_rank"] == pytest.approx(1)
    assert np.isnan(told[5]["popularity"])  # nobody had it
    assert np.isnan(told[2]["tower"])  # no such source
    assert told[2]["covisitation_last"] > 0 == told[7]["covisitation_last"]
    assert (told[2]["category_last"], told[7]["category_last"]) == (1, 0)
    assert told[7]["price_against_usual"] == 6
    assert all(np.isnan(row[name]) for row in told.values() for name in ("position", "hour_sine", "age"))
    nobody = builder.build(user_history([]), found, FeatureContext(NOW))
    assert np.isnan(nobody.values[:, names.index("category_last")]).all()
    assert nobody.pairs.shape == (len(found.items), 0, len(builder.layout.channels))
