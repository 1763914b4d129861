"""Live changes on one release: any changes come to what a plain dict says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from helpers.filters import passes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed.catalogue import Item
from embed.encoders import choose_device
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.query import Query
from serve.engine.query_encoders import Encoders
from serve.moderation.policy import ContentPolicy
from serve.release.overlay import ReleaseOverlay
from serve.release.release import Release
from serve.release.repository import open_current
from serve.release.snapshot import ItemVectors, Snapshot
from serve.search.filters import compile_filter


@dataclass(frozen=True)
class UserContext:
    """What the model holds of an item: its rows by space, the first of which is the item's own vector."""

    item: Item
    rows: Mapping[str, Any]


class Shelf:
    """A release with changes on it, and beside it a plain dict that has to come to the same."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self.live = ReleaseOverlay(release)
        self.model = {
            release.ids.item_id(number): UserContext(
                release.item(number), {name: index.item_rows(number)[1] for name, index in release.spaces.items()}
            )
            for number in range(release.manifest.items)
        }
        self.touched: set[str] = set()

    def put(self, item_id: str, seed: int) -> None:
        """Give an item other content: a few rows near those that items of the release have."""
        probability = np.random.default_rng(seed)
        item = Item(
            item_id, f"thing {seed}", brand=["Asti", "Luma", None][seed % 3], price=float(seed), available=seed % 2 == 0
        )
        rows = {}
        for place, (name, index) in enumerate(self.release.spaces.items()):
            count = (seed + place) % 4  # none in some spaces, in rare cases none at all
            near = [
                index.item_rows(int(number))[1][0]
                for number in probability.integers(self.release.manifest.items, size=count)
            ]
            vectors = np.array(near, np.float32).reshape(count, index.space.dim)
            vectors = vectors + 0.02 * probability.standard_normal(vectors.shape, np.float32)
            rows[name] = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
        self.live.put(item, {name: ItemVectors(range(len(vectors)), vectors) for name, vectors in rows.items()})
        self._note(item_id, UserContext(item, rows))

    def put_price(self, item_id: str, price: int) -> None:
        """Put the item again with what no encoder reads changed."""
        if item_id in self.model:
            before = self.model[item_id]
            item = replace(before.item, price=float(price), domain="sale")
            self.live.put(item, None)
            self._note(item_id, UserContext(item, before.rows))

    def patch(self, item_id: str, price: int) -> None:
        self.live.patch(item_id, {"price": float(price), "available": price > 9})
        if item_id in self.model:
            before = self.model[item_id]
            item = replace(before.item, price=float(price), available=price > 9)
            self._note(item_id, UserContext(item, before.rows))

    def delete(self, item_id: str, _: int) -> None:
        self.live.delete(item_id)
        if item_id in self.model:
            self._note(item_id, None)

    def _note(self, item_id: str, known: UserContext | None) -> None:
        self.touched.add(item_id)
        self.model.pop(item_id, None)
        if known:
            self.model[item_id] = known


def scores(
    model: Mapping[str, UserContext], backgrounds: Mapping[str, Any], queries: Mapping[str, Any]
) -> dict[str, float]:
    """The score of every item that is in any of the spaces; fused as serve.search.fusion says, in plain words."""
    by_space = {
        name: {
            item_id: float((known.rows[name] @ query).max())
            for item_id, known in model.items()
            if len(known.rows[name])
        }
        for name, query in queries.items()
    }
    if len(by_space) == 1:
        return next(iter(by_space.values()))
    total = dict.fromkeys((item_id for found in by_space.values() for item_id in found), 0.0)
    for name, found in by_space.items():
        background = backgrounds[name] @ queries[name] if backgrounds else np.array(list(found.values()))
        for item_id, score in found.items():
            total[item_id] += (score - background.mean()) / background.std() / len(by_space)
    return total


FILTERS: list[dict[str, Any]] = [
    {},
    {"price": {"lte": 12}},
    {"brand": {"in": ["Asti", "Luma"]}, "available": True},
    {"not": {"domain": "sale"}},
]
SPACES = [("text",), ("image",), ("image", "text")]


def check(
    snapshot: Snapshot, model: Mapping[str, UserContext], encoders: Encoders, configured: Settings, ids: list[str]
) -> None:
    """Everything that can be asked of a view, against the model."""
    for item_id in ids:
        number = snapshot.item_index(item_id)
        assert (number is not None) == (item_id in model), item_id
        if number is not None:
            assert (snapshot.item_id(number), snapshot.item(number)) == (item_id, model[item_id].item)
    engine = Engine(snapshot, encoders, configured)
    is_exact = all(index.factory == "Flat" for index in snapshot.spaces.values())
    for number, given_filter in enumerate(FILTERS):
        matching = {item_id for item_id, known in model.items() if passes(known.item, given_filter)}
        compiled = compile_filter(given_filter)
        if compiled:
            assert {
                snapshot.item_id(int(place)) for place in np.flatnonzero(snapshot.selection(compiled).mask)
            } == matching
        for spaces in SPACES:
            in_all = [item_id for item_id in model if all(len(model[item_id].rows[space]) for space in spaces)]
            liked = in_all[-1 - number % 2 :]  # those that came last, one or two of them
            sums = {space: sum(model[item_id].rows[space][0] for item_id in liked) for space in spaces}
            queries = {space: vector / np.linalg.norm(vector) for space, vector in sums.items()}
            right = scores(model, {} if is_exact else snapshot.release.samples, queries)
            expected = sorted((right[each] for each in matching & right.keys() - {*liked}), reverse=True)
            for k in (3, 100):
                answers = [engine.similar(liked, k, spaces, given_filter)]
                answers.append(engine.search(Query(k=k, like=liked, spaces=spaces, filter=given_filter)))
                for answer in answers:
                    found = {snapshot.item_id(one.item_index): one.score for one in answer}
                    assert len(found) == len(answer) == min(k, len(expected))
                    assert found.keys() <= matching - {*liked}
                    assert found == pytest.approx({item_id: right[item_id] for item_id in found}, abs=2e-3)
                    if is_exact or len(spaces) == 1:
                        assert list(found.values()) == pytest.approx(expected[:k], abs=2e-3)


@pytest.fixture(scope="module")
def few_chunks() -> Iterator[None]:
    """Chunks of changes are merged when there are more than two already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serve.release.overlay.MAX_CHUNKS", 2)
        yield


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put_price", "patch", "delete", "look"]), st.integers(0, 7), st.integers(1, 20)
    ),
    max_size=20,
)


@pytest.mark.parametrize("is_exact", [True, False])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS)
def test_any_changes_come_to_what_a_plain_dict_says(
    built: Settings, few_chunks: None, is_exact: bool, steps: list[tuple[str, int, int]]
) -> None:
    """Also views of before, which never change. An index that is not exact proposes, and the engine scores."""
    release = open_current(built.store)
    for index in () if is_exact else release.spaces.values():
        index.factory = "proposes"
    encoders = Encoders(choose_device("cpu", 1), {})
    shelf = Shelf(release)
    ids = [*shelf.model, "new-1", "new-2", "new-3"]
    seen = []
    for step, position, value in [*steps, ("look", 0, 0)]:
        if step != "look":
            getattr(shelf, step)([*ids[:5], *ids[-3:]][position], value)
        else:
            seen.append((shelf.live.snapshot(len(seen), ContentPolicy()), dict(shelf.model)))
    for snapshot, model in seen[-3:]:
        check(snapshot, model, encoders, built, ids)
    there = len(shelf.touched & shelf.model.keys())
    assert seen[-1][0].changes == {"changed": there, "deleted": len(shelf.touched) - there}
