"""The vector store: what was appended comes back, whole parts only, damage is refused by name."""

import sys
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.errors import Damaged, Missing
from embed.vector_store import VectorStore, as_keys, content_key

DIM = 3


def opened(folder: Path, dim: int = DIM) -> VectorStore:
    return VectorStore(folder, "text", "abcd", dim)


def vector_for(name: int) -> Any:
    return np.random.default_rng(name).standard_normal(DIM).astype(np.float32)


def append(store: VectorStore, names: list[int]) -> None:
    vectors = np.stack([vector_for(name) for name in names])
    store.append([content_key(str(name)) for name in names], vectors)


def gathered(store: VectorStore, names: list[int]) -> Any:
    out = np.full((len(names), store.dim), np.nan, np.float32)
    store.gather(as_keys(content_key(str(name)) for name in names), out)
    return out


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "vectors/text/abcd").iterdir())


names = st.integers(0, 40)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(names, min_size=1, max_size=9, unique=True), max_size=6),
    st.lists(names, max_size=30),
    st.booleans(),
)
def test_what_was_appended_comes_back(
    tmp_path_factory: pytest.TempPathFactory, appended: list[list[int]], asked: list[int], reopen: bool
) -> None:
    folder = tmp_path_factory.mktemp("store")
    store = opened(folder)
    stored: set[int] = set()
    for batch in appended:
        if fresh := [name for name in batch if name not in stored]:
            append(store, fresh)
            stored.update(fresh)
    store = opened(folder) if reopen else store
    assert len(store) == len(stored)
    known = store.contains(as_keys(content_key(str(name)) for name in asked))
    assert known.tolist() == [name in stored for name in asked]
    there = [name for name in asked if name in stored]  # with repeats, in any order
    np.testing.assert_array_equal(gathered(store, there), np.array([vector_for(name) for name in there]).reshape(-1, 3))
    if len(there) < len(asked):
        with pytest.raises(Missing, match=f"{len(asked) - len(there)} of {len(asked)} vectors"):
            gathered(store, asked)


def test_keys_of_texts_are_stable_and_take_any_text() -> None:
    assert content_key("Red shoe").hex() == "1fc28dced7b5f1e5547dc4a56a4ddfaf"
    assert len({content_key(text) for text in ("", "\ud800", "a", "A", "a ", "ä", "a\u0308")}) == 7


def test_the_same_parts_have_the_same_names_and_bytes(tmp_path: Path) -> None:
    for turn in ("one", "two"):
        store = opened(tmp_path / turn)
        for start in (0, 10, 20):
            append(store, list(range(start, start + 10)))
            if turn == "two":
                store = opened(tmp_path / turn)
    first, second = parts(tmp_path / "one"), parts(tmp_path / "two")
    assert [path.name[:9] for path in first] == ["00000000-", "00000001-", "00000002-"]
    assert [(path.name, path.read_bytes()) for path in first] == [(path.name, path.read_bytes()) for path in second]


def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    append(opened(tmp_path), [1, 2])
    whole = parts(tmp_path)[0]
    (whole.parent / "part.tmp").write_bytes(whole.read_bytes()[:100])
    store = opened(tmp_path)
    assert len(store) == 2
    assert parts(tmp_path) == [whole]


def test_vectors_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"2 keys need vectors \[2, 3\], not \[2, 4\]"):
        opened(tmp_path).append([content_key("a"), content_key("b")], np.zeros((2, 4), np.float32))
    assert parts(tmp_path) == []


def test_a_part_of_another_dimension_is_refused_by_name(tmp_path: Path) -> None:
    append(opened(tmp_path), [1, 2])
    with pytest.raises(Damaged, match=r"(?s)00000000-.*not vectors of dimension 4"):
        opened(tmp_path, dim=4)


def test_a_part_cut_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    append(opened(tmp_path), list(range(20)))
    (part,) = parts(tmp_path)
    whole = part.read_bytes()
    for length in (*range(0, len(whole), 37), len(whole) - 1):
        part.write_bytes(whole[:length])
        with pytest.raises(Damaged, match=part.name) as caught:
            gathered(opened(tmp_path), list(range(20)))
        assert caught.value.field == part.name


def test_no_altered_byte_gets_through(tmp_path: Path) -> None:
    """Altered keys may be unknown at first; what is never given out is a vector from an altered part."""
    append(opened(tmp_path), [1, 2, 3])
    (part,) = parts(tmp_path)
    whole = part.read_bytes()
    for at in range(len(whole)):
        altered = bytearray(whole)
        altered[at] ^= 0x41
        part.write_bytes(altered)
        with pytest.raises((Damaged, Missing)):
            gathered(opened(tmp_path), [1, 2, 3])
    part.write_bytes(whole[:-1] + b"X")
    with pytest.raises(Damaged, match=part.name):
        gathered(opened(tmp_path), [2])


def test_a_damaged_part_that_was_deleted_is_filled_in_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for name in (1, 2, 3):
        append(store, [name])
    parts(tmp_path)[1].unlink()
    store = opened(tmp_path)
    append(store, [2])
    np.testing.assert_array_equal(gathered(opened(tmp_path), [1, 2, 3]), [vector_for(name) for name in (1, 2, 3)])


def test_threads_may_look_up_keys_while_parts_are_added(tmp_path: Path) -> None:
    store = opened(tmp_path)
    asked = as_keys(content_key(str(name)) for name in range(150))
    done, failures = Event(), []

    def look_up() -> None:
        seen = 0
        try:
            while not done.is_set():
                known = store.contains(asked)
                count = int(known.sum())
                if count < seen or not known[:count].all():
                    raise AssertionError(f"{count} keys known, in order, after {seen}")
                seen = count
        except Exception as error:
            failures.append(error)

    threads = [Thread(target=look_up) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for name in range(150):
            append(store, [name])
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert failures == []
