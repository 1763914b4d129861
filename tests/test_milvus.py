"""Milvus: the contract of an index on a real engine (milvus-lite), which equals exact search."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index import milvus_index
from index.errors import IndexDamaged, IndexMissing, InvalidQuery
from index.exact_index import ExactIndex
from index.item_mask import ItemMask
from index.milvus_index import MilvusIndex, build_collection, drop_collection, open_collection, set_alias
from index.overlay_index import AddedRows, OverlayIndex
from index.protocol import VectorIndex
from index.space import Space

pytest.importorskip("pymilvus", reason="pymilvus is not installed: pip install 'vetrina[milvus]'")
server = pytest.importorskip("milvus_lite.adapter.grpc.server", reason="milvus-lite is not installed")

ITEMS, DIM = 300, 16
SPACE = Space("image", DIM, "abcd")
TWINS = np.arange(9, ITEMS, 9)  # items that share their first row: more than most searches ask for
COLUMNS = pa.table(
    {
        "brand": pa.array([None if item % 5 == 0 else f'B"{item % 4} ü' for item in range(ITEMS)], pa.string()),
        "price": pa.array([None if item % 11 == 0 else item / 2 for item in range(ITEMS)], pa.float64()),
        "available": pa.array([None if item % 13 == 0 else item % 2 == 0 for item in range(ITEMS)], pa.bool_()),
    }
)
NUMBERS = np.arange(ITEMS)
MASKS = [
    NUMBERS % 10 != 3,
    NUMBERS >= 0,
    np.isin(NUMBERS, [2, 3, 8, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 150]),
    NUMBERS == 8,  # which has no row
    NUMBERS < 0,
]


def unit(rows: Any) -> Any:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def shop(seed: int = 0) -> ExactIndex:
    """Exact search over 300 items: every third has two more rows, every seventh none."""
    owners = np.sort(np.concatenate([NUMBERS, *[np.arange(0, ITEMS, 3)] * 2])).astype(np.int32)
    owners = owners[owners % 7 != 1]
    vectors = unit(np.random.default_rng(seed).standard_normal((len(owners), DIM)))
    firsts = np.searchsorted(owners, TWINS)
    vectors[firsts] = vectors[firsts[0]]
    return ExactIndex(SPACE, vectors, owners, np.arange(1000, 1000 + len(owners), dtype=np.int32), ITEMS)


def made(uri: str, collection: str, exact: ExactIndex, columns: pa.Table | None = None) -> MilvusIndex:
    return build_collection(uri, collection, SPACE, exact.owners, exact.labels, ITEMS, exact.vectors, columns)


def check_same(index: VectorIndex, exact: VectorIndex, queries: Any, k: int, allowed: ItemMask | None = None) -> None:
    found, right = index.search(queries, k, allowed), exact.search(queries, k, allowed)
    np.testing.assert_array_equal(found.counts, right.counts)
    np.testing.assert_array_equal(found.items, right.items)
    np.testing.assert_allclose(found.scores, right.scores, atol=1e-5)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("milvus") / "shop.db")


@pytest.fixture(scope="module")
def exact() -> ExactIndex:
    return shop()


@pytest.fixture(scope="module")
def index(uri: str, exact: ExactIndex) -> MilvusIndex:
    return made(uri, "shop", exact, COLUMNS)


@pytest.fixture(scope="module")
def queries(exact: ExactIndex) -> Any:
    """Queries anywhere, near the row that many items share, and at it."""
    generator = np.random.default_rng(1)
    twin = exact.vectors[np.searchsorted(exact.owners, TWINS[0])]
    return unit(np.stack([*generator.standard_normal((3, DIM)), twin + 0.1 * generator.standard_normal(DIM), twin]))


# ---------------------------------------------------------------------------------------------------------- contract


@pytest.mark.parametrize("k", [1, 10, 290, ITEMS + 50])
def test_search_equals_exact_search(index: MilvusIndex, exact: ExactIndex, queries: Any, k: int) -> None:
    assert index.factory == "milvus:FLAT"
    check_same(index, exact, queries, k)
    for mask in MASKS:
        check_same(index, exact, queries, k, ItemMask(mask))


def test_what_the_engine_does_not_give_is_read(
    index: MilvusIndex, exact: ExactIndex, queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the engine's limit all allowed rows are read, in pages."""
    monkeypatch.setattr(milvus_index, "MAX_RESULTS", 40)
    monkeypatch.setattr(index, "_batch", 150)
    check_same(index, exact, queries, 100)
    for mask in MASKS[:3]:
        check_same(index, exact, queries, 100, ItemMask(mask))


def test_everything_else_equals_exact_search(
    index: MilvusIndex, exact: ExactIndex, queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_batch", 150)
    some = np.array([0, 1, 3, 8, 9, 299])
    query = queries[0]
    np.testing.assert_allclose(index.score_all_items(query), exact.score_all_items(query), atol=1e-5)
    for items in (some, NUMBERS, some[:0]):
        np.testing.assert_allclose(index.score_items(query, items), exact.score_items(query, items), atol=1e-5)
    shuffled = np.array([8, 0, 299, 8, 1])
    np.testing.assert_array_equal(index.first_vectors(shuffled), exact.first_vectors(shuffled))
    for item in some.tolist():
        assert index.best_labels(query, [item])[0] == exact.best_labels(query, [item])[0]
        for ours, theirs in zip(index.item_rows(item), exact.item_rows(item), strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


def test_an_expression_gives_what_its_mask_gives(index: MilvusIndex, exact: ExactIndex, queries: Any) -> None:
    brand, price, available = (COLUMNS.column(name).to_pylist() for name in COLUMNS.column_names)
    conditions = {
        'brand in ["B\\"1 ü", "B\\"2 ü"]': [each in ('B"1 ü', 'B"2 ü') for each in brand],
        'brand == "none" or brand like "B\\"3%"': [each == 'B"3 ü' for each in brand],
        "(price >= 20.0) and (price < 40.0)": [each is not None and 20 <= each < 40 for each in price],
        "price in [7.5, 9] or available in [true]": [
            cost in (7.5, 9) or each is True for each, cost in zip(available, price, strict=True)
        ],
    }
    for expression, passed in conditions.items():
        mask = np.array(passed)
        assert 0 < mask.sum() < ITEMS
        for k in (5, ITEMS):
            check_same(index, exact, queries, k, ItemMask(mask, expression))
            # Whatever the mask refuses stays out, and the engine filters by the expression alone.
            check_same(index, exact, queries, k, ItemMask(mask & (NUMBERS % 2 == 0), expression))
            found = index.search(queries, k, ItemMask(NUMBERS >= 0, expression))
            np.testing.assert_array_equal(found.items, exact.search(queries, k, ItemMask(mask)).items)


def test_bad_queries_are_refused(index: MilvusIndex) -> None:
    good = np.ones((1, DIM), np.float32)
    for bad in (good[0], good[:, 1:], good * 0, good * np.nan):
        with pytest.raises(InvalidQuery, match="quer"):
            index.search(bad, 5)
    with pytest.raises(InvalidQuery, match="k is 0"):
        index.search(good, 0)


def test_a_collection_without_rows(uri: str) -> None:
    empty = np.empty(0, np.int32)
    none = build_collection(uri, "none", SPACE, empty, empty, 4, np.empty((0, DIM), np.float32))
    queries = np.ones((2, DIM), np.float32)
    assert none.search(queries, 3).counts.tolist() == [0, 0]
    assert none.score_all_items(queries[0]).tolist() == [-np.inf] * 4
    assert not none.first_vectors(np.array([0])).any()
    assert none.best_labels(queries[0], [0])[0] is None


def test_live_changes_equal_an_index_of_the_final_state(index: MilvusIndex, exact: ExactIndex, queries: Any) -> None:
    """Twelve items come and sixty go, two of them of those that came."""
    generator = np.random.default_rng(2)
    added, owners, vectors = AddedRows(SPACE), [exact.owners], [exact.vectors]
    for item in range(12):
        rows = unit(generator.standard_normal((1 + item % 3, DIM)))
        added.append(item, [item] * len(rows), rows)
        owners.append(np.full(len(rows), ITEMS + item, np.int32))
        vectors.append(rows)
    deleted = np.sort(np.concatenate([generator.choice(ITEMS, 58, replace=False), [ITEMS + 3, ITEMS + 7]]))
    live = OverlayIndex(index, added.index(12), deleted)
    of_rows = np.concatenate(owners)
    kept = ~np.isin(of_rows, deleted)
    final = ExactIndex(SPACE, np.concatenate(vectors)[kept], of_rows[kept], of_rows[kept], ITEMS + 12)
    allowed = generator.random(ITEMS + 12) < 0.4
    allowed[deleted] = False
    for k in (1, 10, ITEMS + 12):
        check_same(live, final, queries, k)
        check_same(live, final, queries, k, ItemMask(allowed))
    some = np.array([0, 2, 150, ITEMS, ITEMS + 3, ITEMS + 11])
    np.testing.assert_allclose(live.score_items(queries[0], some), final.score_items(queries[0], some), atol=1e-5)
    np.testing.assert_allclose(live.score_all_items(queries[0]), final.score_all_items(queries[0]), atol=1e-5)


# -------------------------------------------------------------------------------------------- collections and aliases


def test_a_new_collection_takes_over_the_alias(uri: str, queries: Any) -> None:
    old, new = shop(3), shop(4)
    made(uri, "first", old)
    set_alias(uri, "current", "first")
    opened = open_collection(uri, "current", SPACE, ITEMS, len(old.owners))
    check_same(opened, old, queries, 10)
    made(uri, "second", new)
    set_alias(uri, "current", "second")
    check_same(opened, old, queries, 10)  # what is open stays what it is
    check_same(open_collection(uri, "current", SPACE, ITEMS, len(new.owners)), new, queries, 10)
    drop_collection(uri, "first")
    with pytest.raises(IndexMissing, match=r"no collection 'first' at .*shop\.db"):
        opened.search(queries, 10)
    drop_collection(uri, "first")


def test_what_does_not_fit_is_refused(uri: str, index: MilvusIndex, exact: ExactIndex) -> None:
    with pytest.raises(IndexMissing, match=r"'nothing' at .*shop\.db"):
        open_collection(uri, "nothing", SPACE, ITEMS, 1)
    with pytest.raises(IndexMissing, match=r"'nothing' at .*shop\.db"):
        set_alias(uri, "other", "nothing")
    with pytest.raises(
        IndexDamaged, match=rf"'shop' at .* {index.rows} vectors of 16, expected {index.rows + 1} of 16"
    ):
        open_collection(uri, "shop", SPACE, ITEMS, index.rows + 1)
    with pytest.raises(IndexDamaged, match=r"'shop' at .* vectors of 16, expected .* of 17"):
        open_collection(uri, "shop", Space("image", 17, "abcd"), ITEMS, index.rows)
    with pytest.raises(IndexDamaged, match=r"'shop' at .*no_column"):
        index.search(np.ones((1, DIM), np.float32), 5, ItemMask(NUMBERS > 3, "no_column > 3"))
    with pytest.raises(InvalidQuery, match=r"'shop' exists at .* another name"):
        made(uri, "shop", exact)
    with pytest.raises(InvalidQuery, match=r"vectors have shape \[\d+, 15\]"):
        build_collection(uri, "never", SPACE, exact.owners, exact.labels, ITEMS, exact.vectors[:, 1:])
    for owners in (exact.owners[::-1], exact.owners + 1, exact.owners[1:]):
        with pytest.raises(InvalidQuery, match=r"owners .* 0\.\.299"):
            build_collection(uri, "never", SPACE, owners, exact.labels, ITEMS, exact.vectors)
    for columns, named in (
        (COLUMNS.slice(1), "299 rows, expected one for each of 300 items"),
        (COLUMNS.select(["brand"]).rename_columns(["label"]), "column label"),
        (pa.table({"tags": [["a"]] * ITEMS}), "column tags is list"),
    ):
        with pytest.raises(InvalidQuery, match=named):
            made(uri, "never", exact, columns)
    with pytest.raises(IndexMissing, match="never"):
        open_collection(uri, "never", SPACE, ITEMS, index.rows)


def test_a_build_that_fails_midway_leaves_nothing(uri: str, exact: ExactIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milvus_index, "MAX_BATCH_ROWS", 100)
    last_too_long = pa.table({"brand": [*["short"] * (ITEMS - 1), "x" * 70_000]})
    with pytest.raises(IndexDamaged, match=r"'halfway' at .*brand"):
        made(uri, "halfway", exact, last_too_long)
    with pytest.raises(IndexMissing, match="halfway"):
        open_collection(uri, "halfway", SPACE, ITEMS, len(exact.owners))
    made(uri, "halfway", exact)


# --------------------------------------------------------------------------------------------------- servers and files


def test_a_server_answers_by_a_graph_until_it_is_gone(tmp_path: Path, exact: ExactIndex, queries: Any) -> None:
    running, database, port = server.start_server_in_thread(str(tmp_path / "served"))
    index = made(f"http://127.0.0.1:{port}", "shop", exact, COLUMNS)
    assert index.factory == "milvus:HNSW"
    for allowed in (None, ItemMask(MASKS[0])):
        found, right = index.search(queries, 10, allowed), exact.search(queries, 10, allowed)
        assert np.isclose(found.scores, right.scores, atol=1e-5).mean() > 0.9
    check_same(index, exact, queries, ITEMS)
    for mask in MASKS[2:]:
        check_same(index, exact, queries, 20, ItemMask(mask))  # what is fewer than asked for is read
    running.stop(grace=0)
    database.close()
    with pytest.raises(IndexMissing, match=f"no response for collection 'shop' at .*{port}"):
        index.search(queries, 10)


def test_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match=r"no Milvus at http://127\.0\.0\.1:9 "):
        open_collection("http://user:secret@127.0.0.1:9", "shop", SPACE, 1, 1)
    with pytest.raises(IndexMissing, match=r"no Milvus at .*nowhere"):
        open_collection(str(tmp_path / "nowhere" / "shop.db"), "shop", SPACE, 1, 1)


def test_a_file_that_is_open_elsewhere(tmp_path: Path) -> None:
    running, database, _ = server.start_server_in_thread(str(tmp_path / "held.db"))
    with pytest.raises(IndexMissing, match=r"held\.db .*another process uses the file"):
        open_collection(str(tmp_path / "held.db"), "shop", SPACE, 1, 1)
    running.stop(grace=0)
    database.close()


def test_the_extra_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(IndexMissing, match=r"pip install 'vetrina\[milvus\]'"):
        open_collection(str(tmp_path / "shop.db"), "shop", SPACE, 1, 1)
