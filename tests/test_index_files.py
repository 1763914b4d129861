"""Files of indexes: damaged ones are refused by name, item ids map both ways, and torch and FAISS get along."""

import io
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.indexes import DIM, build_folder, clustered

from index import index_folder, item_ids
from index.array_file import load_array
from index.errors import IndexDamaged, IndexMissing, InvalidQuery
from index.faiss_files import train_index, write_index
from index.item_ids import open_item_ids, write_item_ids

# ------------------------------------------------------------------------------------------------------------- damage


def saved(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


class Canary:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    build_folder(tmp_path / "index", clustered(400), ("IVF8,SQ8",))
    return tmp_path / "index"


FILES = ("space.json", "owners.npy", "labels.npy", "vectors.npy", "index.faiss")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_empty_foreign_or_gone_is_refused_by_name(sound: Path, name: str) -> None:
    path = sound / name
    whole = path.read_bytes()
    for damage in (b"", whole[:5], whole[: len(whole) // 2], b"<html>403</html>" * 40, b"PK\x03\x04" + bytes(300)):
        path.write_bytes(damage)
        with pytest.raises(IndexDamaged, match=name) as caught:
            index_folder.open_index(sound)
        assert caught.value.field == name
    path.unlink()
    with pytest.raises(IndexMissing, match=name):
        index_folder.open_index(sound)
    path.write_bytes(whole)
    index_folder.open_index(sound)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("owners.npy", np.arange(1, 401, dtype=np.int32)),
        ("owners.npy", np.arange(-1, 399, dtype=np.int32)),
        ("owners.npy", np.arange(400, dtype=np.int32)[::-1]),
        ("owners.npy", np.arange(399, dtype=np.int32)),
        ("owners.npy", np.arange(400, dtype=np.int64)),
        ("labels.npy", np.zeros(401, np.int32)),
        ("vectors.npy", np.zeros((400, DIM + 1), np.float32)),
        ("vectors.npy", np.zeros((400, DIM), np.float64)),
        ("vectors.npy", np.zeros((400, DIM), np.float16)),
    ],
)
def test_arrays_of_another_index_are_refused_by_name(sound: Path, name: str, array: Any) -> None:
    (sound / name).write_bytes(saved(array))
    with pytest.raises(IndexDamaged, match=name):
        index_folder.open_index(sound)


@pytest.mark.parametrize(("rows", "dim"), [(399, DIM), (400, DIM + 1)])
def test_a_faiss_file_of_another_index_is_refused_by_name(sound: Path, rows: int, dim: int) -> None:
    write_index(train_index(clustered(rows, dim), "Flat"), sound / "index.faiss")
    with pytest.raises(IndexDamaged, match=r"index\.faiss.*expected 400 of 16"):
        index_folder.open_index(sound)


def test_pickles_are_never_opened(sound: Path, tmp_path: Path) -> None:
    canary = tmp_path / "EXECUTED"
    for content in (saved(np.array([Canary(canary)], object)), pickle.dumps(Canary(canary))):
        for name in FILES:
            whole = (sound / name).read_bytes()
            (sound / name).write_bytes(content)
            with pytest.raises(IndexDamaged, match=name):
                index_folder.open_index(sound)
            (sound / name).write_bytes(whole)
    assert not canary.exists()


def test_any_broken_array_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "owners.npy"
    whole = saved(np.arange(20, dtype=np.int32))
    probability = random.Random(0)
    for _ in range(1500):
        broken = bytearray(whole)
        for _ in range(probability.choice([1, 1, 3])):
            broken[probability.randrange(128)] = probability.randrange(256)
        path.write_bytes(broken)
        with suppress(IndexDamaged):
            assert load_array(path, np.int32, (20,)).shape == (20,)


# ---------------------------------------------------------------------------------------------------------------- ids

ODD = ["00123", "123", " 123", "", "a/b c?d#e%2F", "größe", "gro\u0308ße", "商品", "👟", "\u202eabc", "A", "a"]
ODD.append("x" * 5000)


def check_ids(folder: Path, wanted: list[str]) -> None:
    assert write_item_ids(folder, iter(wanted)) == len(wanted)
    opened = open_item_ids(folder)
    assert len(opened) == len(wanted)
    numbers = range(0, len(wanted), 1 + len(wanted) // 5000)
    assert [opened.item_id(number) for number in numbers] == [wanted[number] for number in numbers]
    assert [opened.item_index(wanted[number]) for number in numbers] == list(numbers)
    for unknown in ("no such item", "1e5", "\ud800", "x" * 4999):
        assert opened.item_index(unknown) is None
    for beyond in (-1, len(wanted)):
        with pytest.raises(IndexError, match=str(beyond)):
            opened.item_id(beyond)


@pytest.mark.parametrize("wanted", [ODD, [], ["one"], [f"item-{number}" for number in range(100_000)]])
def test_ids_go_both_ways(tmp_path: Path, wanted: list[str]) -> None:
    check_ids(tmp_path, wanted)


@pytest.mark.parametrize("hashes", [1, 3])
def test_ids_that_share_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashes: int) -> None:
    monkeypatch.setattr(item_ids, "_hash", lambda item_id: len(item_id) % hashes)
    check_ids(tmp_path, ODD)
    with pytest.raises(InvalidQuery, match="'twin' appears twice"):
        write_item_ids(tmp_path, ["twin", "others", "in", "between", "twin"])


def test_an_id_that_comes_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidQuery, match="'b' appears twice"):
        write_item_ids(tmp_path, ["a", "b", "c", "b"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ids.arrow", "ids_order.npy"])
def test_damaged_ids_are_refused_by_name(tmp_path: Path, name: str) -> None:
    write_item_ids(tmp_path, [f"item-{number}" for number in range(200)])
    path = tmp_path / name
    whole = path.read_bytes()
    for damage in (b"", whole[:7], whole[: len(whole) // 2], whole[:-3], b"foreign" * 100):
        path.write_bytes(damage)
        with pytest.raises(IndexDamaged, match=name):
            open_item_ids(tmp_path)
    path.unlink()
    with pytest.raises(IndexMissing, match=name):
        open_item_ids(tmp_path)


def test_ids_of_two_builds_do_not_mix(tmp_path: Path) -> None:
    for name, count in (("short", 199), ("whole", 200)):
        (tmp_path / name).mkdir()
        write_item_ids(tmp_path / name, map(str, range(count)))
    (tmp_path / "short/ids_order.npy").write_bytes((tmp_path / "whole/ids_order.npy").read_bytes())
    with pytest.raises(IndexDamaged, match=r"ids_order\.npy"):
        open_item_ids(tmp_path / "short")


# ------------------------------------------------------------------------------------------------------------- threads

BOTH = """
import {first}
import {second}
import faiss, numpy as np, torch
from index.threads import limit_threads

limit_threads(2)
rows = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)
index = faiss.index_factory(32, "IVF16,SQ8")
index.train(rows)
index.add(rows)
for _ in range(3):
    found = index.search(rows[:50], 1)[1]
    product = torch.from_numpy(rows) @ torch.from_numpy(rows).T
assert faiss.omp_get_max_threads() == 2
print((product.argmax(1)[:50].numpy() == np.arange(50)).all(), (found[:, 0] == np.arange(50)).mean() > 0.9)
"""


@pytest.mark.parametrize(("first", "second"), [("torch", "faiss"), ("faiss", "torch")])
def test_torch_and_faiss_may_be_imported_in_either_order(first: str, second: str) -> None:
    """Each brings an OpenMP of its own; in one process they have crashed and hung before."""
    command = [sys.executable, "-c", BOTH.format(first=first, second=second)]
    folder = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["True", "True"]), done.stderr
