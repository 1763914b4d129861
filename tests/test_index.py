"""Indexes: one contract for exact search, every FAISS type, Milvus and the overlay; ties; building; tuning."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from helpers.indexes import DIM, build_folder, clustered, put, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from index import gpu, index_folder, milvus_index, tuning
from index.errors import IndexDamaged, InvalidQuery
from index.exact_index import ExactIndex
from index.faiss_files import principal_axes, read_index, write_index
from index.faiss_index import FaissIndex
from index.index_types import MIN_ROWS_PER_CENTROID, candidate_factories
from index.item_mask import ItemMask
from index.overlay_index import AddedRows, OverlayIndex
from index.protocol import VectorIndex
from index.space import Space
from index.top_k import TIE, top_k

FACTORIES = (
    "HNSW32",
    "HNSW32,SQ8",
    "IVF16,SQ8",
    "IVF16,SQfp16",
    "IVF16_HNSW32,RaBitQfs",
    "IVF16,PQ8x4fs",
    "PCA12,IVF16,SQ8",
)
FAMILIES = ("Exact", *FACTORIES, "gpu IVF16,SQ8", "Milvus", "live Exact", "live IVF16,SQ8", "live Milvus")
MIN_RECALL = 0.92  # of other queries; the indexes are built to find 0.95 of the neighbours of their own rows
ITEMS = 900


@dataclass
class Case:
    """An index and the rows that it should hold: `labels` are 1000 + the row."""

    index: VectorIndex
    rows: Any
    owners: Any
    is_exact: bool  # milvus-lite is

    @property
    def items(self) -> int:
        return self.index.items

    def oracle(self, query: Any, allowed: Any = None) -> list[tuple[int, float]]:
        """(item, score) of all items, best first; scores equal in five digits are ties, ordered by item index."""
        scores = np.asarray(self.rows, np.float64) @ unit(query[None])[0].astype(np.float64)
        best: dict[int, float] = {}
        for owner, score in zip(self.owners.tolist(), scores.tolist(), strict=True):
            if allowed is None or allowed[owner]:
                best[owner] = max(score, best.get(owner, -2.0))
        return sorted(best.items(), key=lambda one: (-round(one[1], 5), one[0]))

    def selection(self, allowed: Any) -> ItemMask:
        """A mask over items, without the deleted items."""
        there = np.zeros(self.items, np.bool_)
        there[self.owners] = True
        return ItemMask(allowed & there)

    def check(self, queries: Any, k: int, hits: Any, allowed: Any = None) -> None:
        """Whatever a search found, it is well formed: k items where there are so many, once, with their score."""
        assert hits.items.shape == hits.scores.shape == (len(queries), k)
        possible = np.unique(self.owners if allowed is None else self.owners[allowed[self.owners]])
        for query, count in enumerate(hits.counts.tolist()):
            assert count == min(k, len(possible))
            found = hits.items[query, :count]
            assert len(set(found.tolist())) == count
            assert np.isin(found, possible).all()
            right = dict(self.oracle(queries[query]))
            np.testing.assert_allclose(hits.scores[query, :count], [right[item] for item in found.tolist()], atol=2e-6)
            assert (np.diff(hits.scores[query, :count]) <= 2e-6).all()
            assert (hits.items[query, count:] == -1).all()
            assert (hits.scores[query, count:] == -np.inf).all()

    def recall(self, queries: Any, hits: Any, k: int, allowed: Any = None) -> float:
        right = [{item for item, _ in self.oracle(query, allowed)[:k]} for query in queries]
        shares = [len(truth & set(found.tolist())) / len(truth) for truth, found in zip(right, hits.items, strict=True)]
        return float(np.mean(shares))


def made(folder: Path, family: str, rows: Any, owners: Any = None, items: int | None = None) -> Case:
    """A case of `family` over `rows`, built, written and opened again."""
    rows = np.asarray(rows, np.float32)
    owners = np.arange(len(rows), dtype=np.int32) if owners is None else np.asarray(owners, np.int32)
    items = (int(owners[-1]) + 1 if len(owners) else 0) if items is None else items
    if family.startswith("gpu "):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu, "find_gpu", GpuStandIn)
            return made(folder, family.removeprefix("gpu "), rows, owners, items)
    if family.startswith("live "):
        return changed(folder, family.removeprefix("live "), rows, owners, items)
    labels = np.arange(1000, 1000 + len(rows), dtype=np.int32)
    index_folder.build_index(folder / "index", Space("image", rows.shape[1], "abcd"), owners, labels, items, put(rows))
    index = index_folder.open_index(folder / "index")
    assert isinstance(index, ExactIndex)
    if family == "Milvus":
        pytest.importorskip("milvus_lite", reason="milvus-lite is not installed: pip install 'vetrina[test]'")
        of_engine = milvus_index.build_collection(
            str(folder / "shop.db"), "shop", index.space, index.owners, index.labels, items, index.vectors
        )
        return Case(of_engine, index.vectors, index.owners, True)
    if family != "Exact":
        tuned = tuning.retune(index.vectors, family)
        assert tuned is not None
        write_index(tuned.raw, folder / "raw.faiss")
        raw = read_index(folder / "raw.faiss", len(index.vectors), rows.shape[1])
        index = FaissIndex(index.space, family, raw, index.vectors, index.owners, index.labels, items, tuned.efforts)
    return Case(index, index.vectors, index.owners, family == "Exact")


class GpuStandIn:
    """Stands in for a GPU where there is none: the same calls, answered by copies on the CPU."""

    def upload(self, index: Any) -> Any:
        return faiss.clone_index(index)


def changed(folder: Path, family: str, rows: Any, owners: Any, items: int) -> Case:
    """The last fifth of the items is added live; one in five of the others and some of the new ones are replaced.

    A replaced item gets an item index of its own, so that the case differs from its rows in item indices only.
    """
    first_new = items - items // 5
    before = owners < first_new
    base = made(folder, family, rows[before], owners[before], first_new).index
    added, deleted = AddedRows(base.space), []
    kept = [(int(owner), row) for owner, row in zip(owners, rows, strict=True) if owner < first_new and owner % 5]
    number = first_new
    for item in range(items):
        if item >= first_new or item % 5 == 0:
            theirs = np.flatnonzero(owners == item)
            added.append(number - first_new, (1000 + theirs).tolist(), rows[theirs])
            if item < first_new:
                deleted.append(item)
            if number % 7 == 3:  # put, and put again
                deleted.append(number)
                number += 1
                added.append(number - first_new, (1000 + theirs).tolist(), rows[theirs])
            kept += [(number, rows[row]) for row in theirs]
            number += 1
    index = OverlayIndex(base, added.index(number - first_new), np.array(sorted(deleted), np.int64))
    vectors = np.array([row for _, row in kept], np.float32).reshape(-1, rows.shape[1])
    return Case(index, vectors, np.array([owner for owner, _ in kept], np.int64), family in ("Exact", "Milvus"))


@pytest.fixture(scope="module", autouse=True)
def few_queries() -> Iterator[None]:
    """Enough to choose an effort by where a figure is not the point."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "MAX_QUERIES", 120)
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """900 items in 24 clusters; every third has two more rows, every seventh none."""
    owners = np.sort(np.concatenate([np.arange(ITEMS), *[np.arange(0, ITEMS, 3)] * 2]))
    owners = owners[owners % 7 != 1]
    return made(tmp_path_factory.mktemp("family"), request.param, clustered(len(owners)), owners, ITEMS)


# ---------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("k", [1, 10, 300, ITEMS + 300])
def test_k_items_come_out_once_with_their_best_score(case: Case, k: int) -> None:
    queries = clustered(60, seed=1)
    hits = case.index.search(queries, k)
    case.check(queries, k, hits)
    assert case.recall(queries, hits, k) >= (1 if case.is_exact and k <= 10 else MIN_RECALL)
    if case.is_exact and k <= 10:  # further down, scores come so close that the oracle's five digits make ties of them
        for query, found in zip(queries, hits.items, strict=True):
            assert found.tolist() == [item for item, _ in case.oracle(query)[:k]]


@pytest.mark.parametrize("share", [0.9, 0.5, 0.15, 0.05, 0.004, 0.0])
def test_k_allowed_items_come_whenever_there_are_so_many(case: Case, share: float) -> None:
    queries = clustered(60, seed=2)
    allowed = np.random.default_rng(3).random(case.items) < share
    selection = case.selection(allowed)
    for k in (1, 10, case.items):
        case.check(queries, k, case.index.search(queries, k, selection), allowed)
    if selection.count:
        assert case.recall(queries, case.index.search(queries, 10, selection), 10, allowed) >= MIN_RECALL


def test_only_what_lies_far_from_the_query_is_allowed(case: Case) -> None:
    query = np.array(case.rows[:1])
    allowed = np.zeros(case.items, np.bool_)
    allowed[[item for item, _ in case.oracle(query[0])[-200:]]] = True
    hits = case.index.search(query, 50, case.selection(allowed))
    case.check(query, 50, hits, allowed)
    assert case.recall(query, hits, 50, allowed) >= MIN_RECALL


def test_answers_do_not_depend_on_the_batch_nor_on_the_length_of_the_query(case: Case) -> None:
    queries = clustered(30, seed=4)
    together = case.index.search(queries, 10)
    alone = [case.index.search(query[None] * 7.5, 10).items[0].tolist() for query in queries]
    assert together.items.tolist() == alone
    assert case.index.search(queries[:0], 10).items.shape == (0, 10)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(case: Case, k: int) -> None:
    with pytest.raises(InvalidQuery, match="expected at least 1"):
        case.index.search(clustered(1), k)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf, -np.inf])
def test_queries_without_direction_are_refused(case: Case, bad: float) -> None:
    queries = clustered(3)
    queries[1, :] = 0
    queries[1, 2] = bad
    for asked, place in ((queries, 1), (queries[1:2], 0)):
        with pytest.raises(InvalidQuery, match=f"query {place}"):
            case.index.search(asked, 5)


@pytest.mark.parametrize("shape", [(1, DIM - 1), (1, DIM + 1), (DIM,), (1, 1, DIM)])
def test_queries_of_another_shape_are_refused(case: Case, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidQuery, match=f", {DIM}"):
        case.index.search(np.ones(shape, np.float32), 5)


def test_scores_rows_and_vectors_of_given_items(case: Case) -> None:
    query = clustered(1, seed=5)[0]
    right = dict(case.oracle(query))
    items = np.array(sorted({*right, *range(1, 200, 7)}))[::9]  # also some without rows
    everything = case.index.score_all_items(query)
    assert everything.shape == (case.items,)
    for item, score in zip(items.tolist(), case.index.score_items(query, items).tolist(), strict=True):
        assert score == pytest.approx(right.get(item, -np.inf), abs=1e-6)
        assert everything[item] == pytest.approx(right.get(item, -np.inf), abs=1e-6)
        theirs = case.rows[case.owners == item]
        labels, vectors = case.index.item_rows(item)
        if item in right:
            np.testing.assert_allclose(vectors, theirs, atol=1e-6)
            np.testing.assert_allclose(case.index.first_vectors(np.array([item])), theirs[:1], atol=1e-6)
            assert case.index.best_labels(query, [item])[0] == labels[int((theirs @ query).argmax())]
    nowhere = next(item for item in range(1, 200, 7) if item not in right)
    some = np.array([item, nowhere, items[0], item])
    for vector, each in zip(case.index.first_vectors(some), some.tolist(), strict=True):
        theirs = case.rows[case.owners == each]
        np.testing.assert_allclose(vector, theirs[0] if len(theirs) else np.zeros_like(vector), atol=1e-6)
    assert case.index.best_labels(query, [nowhere])[0] is None
    assert len(case.index.item_rows(nowhere)[0]) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_ties_go_by_item_number(tmp_path: Path, family: str) -> None:
    """Equal rows tie even where a matrix product gives them scores that differ in the last bit."""
    generator = np.random.default_rng(6)
    for trial in range(2):
        rows = clustered(int(generator.integers(700, 900)), 40, seed=trial)
        twins = np.sort(generator.choice(len(rows), 6, replace=False))
        rows[twins] = rows[twins[0]]
        case = made(tmp_path / str(trial), family, rows)
        queries = unit(rows[twins[0]] + 0.1 * generator.standard_normal((40, 40)) / 6)
        same = np.unique(case.owners[(case.rows @ rows[twins[0]]) > 1 - 1e-5])
        for found in case.index.search(queries, 20).items:
            assert found[:6].tolist() == same.tolist()


def test_scores_on_both_sides_of_any_limit_still_tie() -> None:
    items = np.arange(4, dtype=np.int32)
    for base in np.linspace(0.1, 0.9, 4001, dtype=np.float32):
        scores = np.array([base, np.nextafter(base, np.float32(2)), np.float32(-1), base], np.float32)
        for k in (1, 2, 3, 4):
            assert top_k(scores, items, k, TIE).tolist() == [0, 1, 3, 2][:k]


def test_small_gaps_do_not_chain_into_one_tie() -> None:
    scores = np.linspace(0, 2e-5, 100, dtype=np.float32)
    assert top_k(scores, np.arange(100), 5).tolist() == [99, 98, 97, 96, 95]
    assert top_k(scores, np.arange(100), 5, TIE).tolist() == [95, 96, 97, 98, 99]
    assert top_k(scores, np.arange(100), 6, TIE)[5] == 90  # the next tie starts below the first


def ordered(scores: Any, items: Any, tie: float) -> list[int]:
    """The positions of scores, best first: a tie takes all that are at most `tie` below its best."""
    left = sorted(
        (-float(score), int(item), position) for position, (score, item) in enumerate(zip(scores, items, strict=True))
    )
    order: list[int] = []
    while left and left[0][0] < np.inf:
        tied = [one for one in left if one[0] - left[0][0] <= tie]
        order += [position for _, _, position in sorted(tied, key=lambda one: one[1])]
        left = left[len(tied) :]
    return order


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(-1, 1, width=32), st.integers(-12, 12).map(lambda steps: steps * 4e-7), st.just(-np.inf)),
        max_size=600,
    ),
    st.integers(1, 400),
    st.sampled_from([0.0, TIE]),
    st.integers(0, 3),
)
def test_nothing_comes_before_what_is_clearly_better(drawn: list[float], k: int, tie: float, seed: int) -> None:
    scores = np.array(drawn, np.float32)
    items = np.random.default_rng(seed).permutation(len(scores))
    positions = top_k(scores, items, k, tie).tolist()
    assert positions == ordered(scores, items, tie)[:k]
    exact = scores.astype(np.float64)
    worst = np.inf  # the worst score so far
    for position in positions:
        assert exact[position] - worst <= tie
        worst = min(worst, exact[position])
    missing = np.delete(exact, positions)
    assert len(positions) == min(k, int((exact > -np.inf).sum()))
    if len(positions) and len(missing):
        assert missing.max() - worst <= tie


@pytest.mark.parametrize("family", ["Exact", "live Exact"])
def test_no_row_and_one_row(tmp_path: Path, family: str) -> None:
    query = np.ones((2, 4), np.float32)
    none = made(tmp_path / "none", family, np.empty((0, 4)), items=5)
    for allowed in (None, np.ones(none.items, np.bool_), np.zeros(none.items, np.bool_)):
        none.check(query, 3, none.index.search(query, 3, None if allowed is None else none.selection(allowed)), allowed)
    assert not none.index.first_vectors(np.array([0])).any()
    assert none.index.score_items(query[0], np.arange(5)).tolist() == [-np.inf] * 5
    one = made(tmp_path / "one", family, np.eye(1, 4), owners=[3], items=5)
    assert one.index.search(query, 3).items.tolist() == [[3, -1, -1]] * 2
    assert one.index.search(query, 3, one.selection(np.arange(one.items) != 3)).counts.tolist() == [0, 0]


small = st.integers(-2, 2)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), small, small, small).filter(lambda row: any(row[1:])), max_size=40),
    st.tuples(small, small, small).filter(any),
    st.integers(1, 20),
    st.none() | st.lists(st.booleans(), min_size=13, max_size=13),
)
def test_exact_search_equals_a_naive_search(
    rows: list[tuple[int, int, int, int]], query: tuple[int, int, int], k: int, mask: list[bool] | None
) -> None:
    """Small whole numbers make many ties, which an oracle of plain Python orders alike."""
    rows.sort(key=lambda row: row[0])
    owners = np.array([row[0] for row in rows], np.int32)
    vectors = unit(np.array([row[1:] for row in rows]).reshape(-1, 3)) if rows else np.empty((0, 3), np.float32)
    index = ExactIndex(Space("s", 3, "f"), vectors, owners, owners, 13)
    case = Case(index, vectors, owners, True)
    allowed = None if mask is None else np.array(mask)
    queries = np.array([query], np.float32)
    hits = index.search(queries, k, None if allowed is None else ItemMask(allowed))
    case.check(queries, k, hits, allowed)
    assert hits.items[0, : hits.counts[0]].tolist() == [item for item, _ in case.oracle(queries[0], allowed)[:k]]


# ------------------------------------------------------------------------------------------------------------ building


@pytest.mark.parametrize("factory", ["Flat", "IVF4,SQ8", "HNSW32"])
def test_rows_without_direction_are_left_out_and_others_scaled(tmp_path: Path, factory: str) -> None:
    rows = clustered(240)
    rows[3] = np.nan
    rows[7] = 0
    rows[11] *= 25
    rows[13, 5] = np.inf
    index, report = build_folder(tmp_path / "index", rows, (factory,))
    assert (report.rows, report.rejected, report.items, report.factory) == (237, 3, 240, factory)
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-6)
    assert {3, 7, 13}.isdisjoint(index.owners.tolist())
    assert index.labels.tolist() == [1000 + owner for owner in index.owners.tolist()]
    assert index.search(rows[11:12], 1).items.tolist() == [[11]]
    assert index.search(clustered(1), 240).counts.tolist() == [237]
    assert not list((tmp_path / "index").glob("*.tmp"))


def test_a_build_gives_the_same_bytes_again(tmp_path: Path) -> None:
    for turn in ("one", "two"):
        build_folder(tmp_path / turn, clustered(600))
    for name in ("vectors.npy", "owners.npy", "labels.npy", "index.faiss"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


# -------------------------------------------------------------------------------------------------------------- tuning


@pytest.fixture(scope="module")
def tuned() -> tuning.TunedIndex:
    return tuning.tune(clustered(6000, 32), 0.95)


def test_the_target_is_met_by_queries_that_had_no_part_in_the_choice(tuned: tuning.TunedIndex) -> None:
    rows, queries = clustered(6000, 32), clustered(300, 32, seed=8)
    assert tuned.factory in candidate_factories(6000, 32)
    assert tuned.recall10 >= 0.95
    if tuned.raw is not None:
        numbers = np.arange(6000, dtype=np.int32)
        index = FaissIndex(Space("s", 32, "f"), tuned.factory, tuned.raw, rows, numbers, numbers, 6000, tuned.efforts)
        case = Case(index, rows, numbers, False)
        assert case.recall(queries, index.search(queries, 10), 10) >= 0.92
    tried = {point.factory for point in tuned.curve}
    assert tried == set(candidate_factories(6000, 32))
    reached = [point for point in tuned.curve if point.recall10 >= 0.96]
    assert tuned.queries_per_s >= 0.3 * max(point.queries_per_s for point in reached)


def test_no_more_centroids_than_the_rows_can_train() -> None:
    for rows in (500, 6_000, 300_000, 10_000_000):
        for factory in candidate_factories(rows, 64):
            if factory.startswith("IVF"):
                assert MIN_ROWS_PER_CENTROID * int(factory[3:].partition(",")[0].partition("_")[0]) <= rows
    assert not [name for name in candidate_factories(6000, 30) if "PQ" in name]  # 30 cannot be cut into fours


def test_rows_of_few_directions_are_projected_on_these() -> None:
    flat = np.random.default_rng(3).standard_normal((8, 64))
    rows = unit(clustered(5000, 8) @ flat + 0.01 * np.random.default_rng(4).standard_normal((5000, 64)))
    assert tuning.projected_sizes(rows) == [16]
    assert tuning.projected_sizes(clustered(5000, 64)) == [32]
    assert tuning.projected_sizes(unit(np.random.default_rng(5).standard_normal((5000, 64)))) == []
    assert "PCA16,IVF64,SQ8" in candidate_factories(5000, 64, [16])
    axes, held = principal_axes(rows)
    np.testing.assert_allclose(axes.T @ axes, np.eye(64), atol=1e-5)
    assert held[7] > 0.99
    np.testing.assert_allclose((rows @ axes[:, :16]) @ (rows[:9] @ axes[:, :16]).T, rows @ rows[:9].T, atol=0.02)


def test_few_rows_are_flat_and_the_report_says_so(tmp_path: Path) -> None:
    numbers = np.arange(200, dtype=np.int32)
    report = index_folder.build_index(tmp_path / "i", Space("s", DIM, "f"), numbers, numbers, 200, put(clustered(200)))
    assert (report.factory, report.recall10, report.curve) == ("Flat", 1.0, ())
    assert "below 4,000 rows" in report.note


def test_the_memory_given_is_kept_and_one_too_small_is_refused_with_what_would_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tuning, "candidate_factories", lambda *_: ["Flat", "IVF64,SQ8", "IVF64,RaBitQfs", "HNSW32"])
    rows = clustered(6000, 32)
    small = tuning.tune(rows, 0.9, memory_budget=6000 * 40)
    assert small.bytes_per_vector <= 40
    with pytest.raises(InvalidQuery, match=r"within 1,000 bytes finds 0\.9 .*768,000 bytes") as caught:
        tuning.tune(rows, 0.9, memory_budget=1000)
    assert caught.value.field == "memory_budget"
    for target in (0, -0.5, 1.01, float("nan")):
        with pytest.raises(InvalidQuery, match="recall_target"):
            tuning.tune(rows, target)


def test_real_queries_decide_where_there_are_some() -> None:
    rows = clustered(6000, 32)
    far = unit(np.random.default_rng(1).standard_normal((200, 32)))  # of no cluster, and so harder to answer
    found = tuning.retune(rows, "IVF64,SQ8", queries=far)
    usual = tuning.retune(rows, "IVF64,SQ8")
    assert found is not None
    assert usual is not None
    assert found.efforts[0].probe > usual.efforts[0].probe


def test_an_earlier_choice_is_taken_over_while_the_rows_are_about_as_many(tmp_path: Path) -> None:
    _, first = build_folder(tmp_path / "first", clustered(1200), ("IVF8,SQ8", "IVF16,SQ8"))
    _, again = build_folder(tmp_path / "again", clustered(1500), ("HNSW32",), earlier=first)
    assert (again.factory, again.curve, again.tuned_rows) == (first.factory, first.curve, 1200)
    assert "earlier build" in again.note
    _, other = build_folder(tmp_path / "other", clustered(3000), ("HNSW32",), earlier=first)
    assert (other.factory, other.tuned_rows) == ("HNSW32", 3000)
    _, harder = build_folder(tmp_path / "harder", clustered(1500), ("HNSW32",), earlier=first, recall_target=0.9)
    assert harder.factory == "HNSW32"


def test_effort_rises_where_items_have_several_rows(tmp_path: Path) -> None:
    owners = np.repeat(np.arange(500, dtype=np.int32), 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "MAX_FLAT_ROWS", 100)
        patch.setattr(tuning, "candidate_factories", lambda *_: ["IVF16,SQ8"])
        space = Space("image", DIM, "abcd")
        report = index_folder.build_index(tmp_path / "index", space, owners, owners, 500, put(clustered(2000)))
    assert report.recall10 >= 0.95
    assert [effort.reach for effort in report.efforts] == sorted(effort.reach for effort in report.efforts)


@pytest.mark.parametrize("owners", [[0, 2, 1], [-1, 0, 1], [0, 1, 3]])
def test_owners_that_do_not_fit_are_refused(tmp_path: Path, owners: list[int]) -> None:
    with pytest.raises(InvalidQuery, match="owners"):
        made(tmp_path, "Exact", clustered(3), owners, items=3)
    assert not (tmp_path / "index").exists()


def test_spaces_of_other_builds_do_not_mix() -> None:
    space = Space("image", 16, "abcd")
    space.check(Space("image", 16, "abcd"))
    for other in (Space("image", 16, "ef01"), Space("image", 32, "abcd"), Space("text", 16, "abcd")):
        with pytest.raises(IndexDamaged, match=r"ef01|32|text"):
            space.check(other)
