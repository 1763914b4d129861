"""Filters: an oracle over items agrees, every mistake is named, and only what matches is ever answered."""

import base64
import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from helpers.filters import CATEGORIES, PRICES, WORDS, conditions, passes
from helpers.service import Service, good, refused, served
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.catalogue import Item, as_batch
from index.item_mask import ItemMask, ItemMaskCache
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.engine.engine import Engine
from serve.engine.hybrid_search import positions_among
from serve.engine.query import Query
from serve.live.replica import open_engine
from serve.moderation.policy import ContentPolicy
from serve.release.overlay import ReleaseOverlay
from serve.release.repository import open_current
from serve.release.snapshot import Snapshot
from serve.search.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_TEXT, MAX_VALUES, compile_filter

# -------------------------------------------------------------------------------------------------------------- oracle


# Few words, so that filters meet items; some of them are signs to the engines behind.


def stock_of(seed: int, count: int) -> list[Item]:
    """Items that say any of these, or nothing."""
    probability = random.Random(seed)

    def maybe(values: tuple[Any, ...]) -> Any:
        return probability.choice((None, *values))

    return [
        Item(
            item_id=probability.choice(WORDS),
            title=maybe(WORDS),
            category=maybe(CATEGORIES),
            brand=maybe(WORDS),
            price=maybe(PRICES),
            currency=maybe(("EUR", "USD")),
            attributes={
                name: probability.sample(WORDS, probability.randrange(4))
                for name in ("color", "a.b")
                if probability.random() < 0.6
            },
            available=probability.random() < 0.5,
            domain=maybe(WORDS),
            updated_at=maybe(PRICES),
        )
        for _ in range(count)
    ]


plain = st.lists(conditions, max_size=2).map(dict)
filters = st.recursive(
    plain,
    lambda inner: st.builds(
        lambda conditions, nested: {**conditions, **nested},
        plain,
        st.fixed_dictionaries({}, optional={"not": inner, "any": st.lists(inner, max_size=3)}),
    ),
    max_leaves=4,
)


def table_of(stock: list[Item], cuts: list[int]) -> Any:
    """Items as a table in chunks, cut where it is told to, some of them views of longer arrays."""
    bounds = [0, *sorted(cut % (len(stock) + 1) for cut in cuts), len(stock)]
    batches = [as_batch(stock[start:end]) for start, end in pairwise(bounds)]
    whole = as_batch(stock)
    views = [whole.slice(start, end - start) for start, end in pairwise(bounds)]
    chosen = [view if number % 2 else batch for number, (view, batch) in enumerate(zip(views, batches, strict=True))]
    return pa.Table.from_batches(chosen)


@given(items=st.sets(st.integers(0, 30)).map(sorted), wanted=st.lists(st.integers(0, 40)))
def test_places_are_those_of_what_is_wanted_and_there(items: list[int], wanted: list[int]) -> None:
    found = positions_among(np.array(items, np.int64), wanted)
    assert found.tolist() == [items.index(number) for number in wanted if number in items]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 999),
    count=st.sampled_from([0, 1, 40]),
    given_filter=filters.filter(bool),
    cuts=st.lists(st.integers(0, 40), max_size=3),
)
def test_a_mask_is_what_the_oracle_says(seed: int, count: int, given_filter: dict[str, Any], cuts: list[int]) -> None:
    stock = stock_of(seed, count)
    compiled = compile_filter(given_filter)
    assert compiled is not None
    mask = compiled.mask(table_of(stock, cuts))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [passes(item, given_filter) for item in stock]


def test_a_number_written_in_any_way_is_that_number() -> None:
    """Also one beyond 64 bits, and nought with a sign: JSON has them all."""
    table = pa.Table.from_batches([as_batch([Item("none"), Item("free", price=0.0), Item("dear", price=1e12)])])
    for given_filter, expected in (
        ({"price": {"lte": 10**30}}, [False, True, True]),
        ({"price": {"in": [10**30, 10**12]}}, [False, False, True]),
        ({"price": -0.0}, [False, True, False]),
        ({"price": {"gte": -0.0, "lt": 1}}, [False, True, False]),
    ):
        compiled = compile_filter(given_filter)
        assert compiled is not None
        assert compiled.mask(table).tolist() == expected, given_filter


# ------------------------------------------------------------------------------------------------------------ mistakes


def nested(depth: int) -> dict[str, Any]:
    return {"not": nested(depth - 1)} if depth > 1 else {"brand": "A"}


MISTAKES: list[tuple[Any, str]] = [
    ([], ""),
    ("Shoes", ""),
    ({"colour": "red"}, "colour"),
    ({"attributes": "red"}, "attributes"),
    ({"attributes.": "red"}, "attributes."),
    ({"description": "red"}, "description"),
    ({"eq": 5}, "eq"),
    ({"brand": None}, "brand"),
    ({"brand": 5}, "brand"),
    ({"brand": ["A", "B"]}, "brand"),
    ({"brand": {}}, "brand"),
    ({"brand": {"is": "A"}}, "brand.is"),
    ({"brand": {"eq": ["A"]}}, "brand.eq"),
    ({"brand": {"eq": {"eq": "A"}}}, "brand.eq"),
    ({"brand": {"in": "A"}}, "brand.in"),
    ({"brand": {"in": ["A", None]}}, "brand.in.1"),
    ({"brand": {"gt": "A"}}, "brand.gt"),
    ({"brand": "x" * (MAX_TEXT + 1)}, "brand"),
    ({"brand": "half \ud800"}, "brand"),
    ({"attributes.half \ud800": "red"}, "attributes.half \ud800"),
    ({"attributes.color": {"lte": 5}}, "attributes.color.lte"),
    ({"category": {"in": ["A", 7]}}, "category.in.1"),
    ({"price": "5"}, "price"),
    ({"price": True}, "price"),
    ({"price": {"lte": "cheap"}}, "price.lte"),
    ({"price": {"lte": 5, "gte": None}}, "price.gte"),
    ({"price": {"lte": 10**400}}, "price.lte"),
    ({"price": {"lte": float("inf")}}, "price.lte"),
    ({"price": {"in": [1, float("nan")]}}, "price.in.1"),
    ({"available": 1}, "available"),
    ({"available": {"in": [True, "yes"]}}, "available.in.1"),
    ({"not": "A"}, "not"),
    ({"not": [{"brand": "A"}]}, "not"),
    ({"not": {"price": {"like": 5}}}, "not.price.like"),
    ({"any": {"brand": "A"}}, "any"),
    ({"any": [{"brand": "A"}, {"not": {"any": [{}, {"prise": 5}]}}]}, "any.1.not.any.1.prise"),
    ({"any": [{"brand": "A"}, "B"]}, "any.1"),
    (nested(MAX_DEPTH + 1), ".".join(["not"] * MAX_DEPTH)),
    ({"any": [{"brand": "A"}] * MAX_CONDITIONS}, f"any.{MAX_CONDITIONS - 1}.brand"),
    ({"brand": {"in": ["A"] * (MAX_VALUES + 1)}}, f"brand.in.{MAX_VALUES}"),
]


@pytest.mark.parametrize(("wrong", "place"), MISTAKES, ids=[place or "top" for _, place in MISTAKES])
def test_a_mistake_is_refused_with_its_place(wrong: Any, place: str) -> None:
    with pytest.raises(BadRequest) as error:
        compile_filter(wrong)
    assert error.value.field == f"filter.{place}".rstrip(".") + "." * place.endswith(".")
    assert error.value.field in error.value.message


def test_a_filter_is_as_large_as_its_limits_allow() -> None:
    for right in (
        nested(MAX_DEPTH),
        {"any": [{"brand": "A"}] * (MAX_CONDITIONS - 1)},
        {"brand": {"in": ["A"] * MAX_VALUES}},
        {"brand": "x" * MAX_TEXT},
    ):
        assert compile_filter(right)
    assert compile_filter({}) is None


def test_alternatives_that_say_nothing_count_too() -> None:
    """Each costs a mask over the whole catalogue, so that a list of millions would stop the service."""
    with pytest.raises(BadRequest, match="at most"):
        compile_filter({"any": [{}] * 10_000})


# ------------------------------------------------------------------------------------------------------ keys and caches


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"brand": "A", "price": {"lte": 5, "gt": 1}}, {"price": {"gt": 1, "lte": 5}, "brand": "A"}),
        ({"any": [{"not": {"brand": "A", "price": 5}}]}, {"any": [{"not": {"price": 5, "brand": "A"}}]}),
        ({"brand": "A"}, {"brand": {"eq": "A"}}),
        ({"price": {"lte": 5}}, {"price": {"lte": 5.0}}),
    ],
)
def test_equal_filters_have_one_key_however_written(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert key(first) == key(second)


def key(given_filter: dict[str, Any]) -> bytes:
    compiled = compile_filter(given_filter)
    assert compiled is not None
    return compiled.key


def test_unequal_filters_have_keys_of_their_own() -> None:
    """However alike they look: what the cache takes for one filter has to be one."""
    red, blue = {"brand": "red"}, {"brand": "blue"}
    alike = [
        red,
        blue,
        {"title": "red"},
        {"attributes.brand": "red"},
        {"not": red},
        {"not": {"not": {"not": red}}, "brand": "blue"},
        {"any": [red, blue]},
        {"any": [{**red, "title": "red"}]},
        {"any": [red, {"title": "red"}]},
        {"brand": {"in": ["red", "green"]}},
        {"brand": {"in": ["red,green"]}},
        {"brand": {"in": []}},
        {"any": []},
        *({"price": {operator: 5}} for operator in ("eq", "gt", "gte", "lt", "lte")),
        {"updated_at": {"gt": 5}},
        {"price": {"gt": 5.000000000001}},
        {"price": {"gt": -5}},
        {"available": True},
        {"available": False},
    ]
    assert len({key(each) for each in alike}) == len(alike)


def test_a_selection_is_made_once(built: Settings) -> None:
    """Of a release, and of one with live changes on it, which leaves out what is gone."""
    release = open_current(built.store)
    changed = ReleaseOverlay(release)
    changed.patch(release.ids.item_id(3), {"price": 1.0})
    changed.delete(release.ids.item_id(5))
    given_filter = {"price": {"gte": 1}, "available": True}
    first, again = (compile_filter(dict(order)) for order in (given_filter.items(), reversed(given_filter.items())))
    assert first is not None
    assert again is not None
    for snapshot in (Snapshot(release), changed.snapshot(2, ContentPolicy())):
        selection = snapshot.selection(first)
        assert snapshot.selection(again) is selection
        assert selection.count == int(selection.mask.sum()) > 0
    assert not selection.mask[5]


def test_the_filters_asked_for_last_are_kept() -> None:
    kept = ItemMaskCache(size=2)

    def get(name: bytes) -> ItemMask:
        return kept.get(name, lambda: ItemMask(np.ones(3, np.bool_)))

    first, second = get(b"first"), get(b"second")
    assert get(b"first") is first
    get(b"third")
    assert get(b"first") is first
    assert get(b"second") is not second


# ------------------------------------------------------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def engine(built: Settings) -> Engine:
    return open_engine(built)


@pytest.fixture(scope="module")
def stock(engine: Engine) -> list[Item]:
    return [engine.snapshot.item(number) for number in range(engine.snapshot.items)]


@pytest.fixture(scope="module")
def asked(stock: list[Item]) -> list[dict[str, Any]]:
    """Filters of the drawn shop, from those that nothing meets to those that all do."""
    some, other = stock[7], stock[40]
    top = str(some.category).partition("/")[0]
    middle = sorted(item.price or 0.0 for item in stock)[30]
    colour = {f"attributes.{name}": values[0] for name, values in list(other.attributes.items())[:1]}
    found: list[dict[str, Any]] = [
        {"item_id": "nothing"},
        {"item_id": some.item_id},
        {"category": some.category},
        {"category": top},
        {"not": {"category": top}},
        {"price": {"lte": middle}, "brand": {"in": [some.brand, other.brand]}},
        {"any": [{"price": {"gt": middle}}, {"brand": some.brand}]},
        colour,
        {"not": colour, "available": True},
        {"price": {"gte": 0}},
    ]
    assert len({sum(passes(item, each) for item in stock) for each in found}) > 5
    return found


def test_answers_are_the_unfiltered_ones_without_what_does_not_match(
    engine: Engine, stock: list[Item], asked: list[dict[str, Any]]
) -> None:
    """So the best k of those that match, as many as there are, with the same scores."""
    liked = [stock[7].item_id, stock[8].item_id]
    for spaces in ((), ("text",)):
        all_by_words = engine.search(Query(k=72, text="red striped shoe", spaces=spaces))
        all_similar = engine.similar(liked, 72, spaces)
        assert len(all_by_words) == len(all_similar) + 2 == 72
        for given_filter in asked:
            for k in (1, 5, 72):
                by_words = engine.search(Query(k=k, text="red striped shoe", spaces=spaces, filter=given_filter))
                similar = engine.similar(liked, k, spaces, given_filter)
                for filtered, everything in ((by_words, all_by_words), (similar, all_similar)):
                    matching = [found for found in everything if passes(stock[found.item_index], given_filter)]
                    assert filtered == matching[:k]


@pytest.fixture(scope="module")
def service(built: Settings) -> Iterator[Service]:
    with served(built) as running:
        yield running


def ways(service: Service, photo: bytes, like: str, given_filter: Any) -> list[httpx.Response]:
    """Every call that takes a filter."""
    written = json.dumps(given_filter)
    encoded = base64.b64encode(photo).decode()

    def posted(path: str, **body: Any) -> httpx.Response:
        headers = {"content-type": "application/json"}
        content = json.dumps({**body, "filter": given_filter, "k": 72})  # httpx cannot write all that JSON can
        return service.client.post(path, content=content, headers=headers)

    return [
        posted("/v1/search", text="shoe"),
        posted("/v1/search", image=encoded),
        service.client.post("/v1/search", data={"filter": written, "k": "72"}, files={"image": photo}),
        posted("/v1/similar", item_ids=[like]),
        service.client.get(f"/v1/items/{like}/similar", params={"filter": written, "k": 72}),
    ]


def test_every_call_filters(service: Service, stock: list[Item], asked: list[dict[str, Any]], shop: Path) -> None:
    like = stock[0].item_id
    photo = (shop / stock[0].images[0]).read_bytes()
    for given_filter in asked:
        expected = {item.item_id for item in stock if passes(item, given_filter)}
        for number, response in enumerate(ways(service, photo, like, given_filter)):
            found = {item["item_id"] for item in good(response)["items"]}
            assert found == (expected - {like} if number > 2 else expected), (given_filter, number)


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"prise": 5}, "filter.prise"),
        ({"any": [{"brand": "A"}, {"price": {"lte": "cheap"}}]}, "filter.any.1.price.lte"),
        ({"not": {"attributes.half \ud800": "x"}}, None),
        ({"price": {"lte": 10**400}}, None),
        ([], "filter"),
        ("Shoes", "filter"),
        (nested(500), None),
    ],
)
def test_every_call_refuses_a_mistake_at_its_place(
    service: Service, stock: list[Item], shop: Path, wrong: Any, place: str | None
) -> None:
    """Where a call cannot even be read, the place may be the whole of it."""
    photo = (shop / stock[0].images[0]).read_bytes()
    for response in ways(service, photo, stock[0].item_id, wrong):
        field = refused(response)["field"]
        assert field == place if place else field.startswith("filter") or field == "body"


def test_a_limit_beyond_all_numbers_is_not_taken_for_another(service: Service) -> None:
    """1e999 is JSON. Neither it nor its opposite may answer by what was kept for the other."""
    answers = [
        service.client.post(
            "/v1/search",
            content=b'{"text": "shoe", "k": 72, "filter": {"price": {"lte": %s1e999}}}' % sign,
            headers={"content-type": "application/json"},
        )
        for sign in (b"", b"-")
    ]
    for response in answers:
        assert refused(response)["field"] == "filter.price.lte"
