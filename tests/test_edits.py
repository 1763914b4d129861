"""Edits beside a catalogue: compacted they come to the same for every feed, and damage is named."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.catalogue.edits import Edit, compact_edits, merge_edits, read_edits, write_edits
from embed.catalogue.item import Item
from embed.errors import Damaged

patches = st.fixed_dictionaries(
    {}, optional={"price": st.sampled_from([1.0, 2.0]), "available": st.booleans(), "domain": st.just("sale")}
).filter(bool)
items = st.builds(Item, item_id=st.just("a"), title=st.sampled_from(["hat", "Hüte\u2028\r\n"]), price=st.just(5.0))
edits = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.none() | patches | items), max_size=12).map(
    lambda changes: [
        Edit(number, 10.0 * number, item_id, change) for number, (item_id, change) in enumerate(changes, start=1)
    ]
)


@given(edits, st.integers(0, 12))
def test_compacted_edits_come_to_the_same_on_every_feed(given_edits: list[Edit], newer_than: int) -> None:
    compacted = compact_edits(given_edits)

    def beyond(kept: list[Edit]) -> Any:
        return merge_edits(edit for edit in kept if edit.sequence > newer_than)

    assert beyond(compacted) == beyond(given_edits)
    assert compact_edits(compacted) == compacted
    assert len(compacted) <= 2 * (1 + 3), "an item's edits are at most one whole one and one by field"


@settings(deadline=None)
@given(edits)
def test_edits_are_read_as_written_and_damage_is_named(
    tmp_path_factory: pytest.TempPathFactory, given_edits: list[Edit]
) -> None:
    folder: Path = tmp_path_factory.mktemp("edits")
    name = write_edits(folder, given_edits)
    assert bool(name) == bool(given_edits)
    if name:
        assert read_edits(folder / name) == given_edits
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(Damaged, match=name):
            read_edits(folder / name)
        (folder / name).unlink()
        with pytest.raises(Damaged, match=name):
            read_edits(folder / name)
