"""The demo shop: the same bytes for the same seed, honest events, and pictures in which colour can be seen."""

import colorsys
import csv
import json
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serve.core.units import DAY
from serve.demo import make_shop
from serve.demo.draw import Appearance, draw
from serve.demo.paint import COLOR_FAMILIES, COLORS, PATTERNS
from serve.demo.products import BRANDS, DAYS, KINDS, OPENING, make_products
from serve.demo.shapes import SHAPES
from serve.demo.shop import COLUMNS
from serve.demo.user_simulation import TYPES

ITEMS, USERS = 60, 150


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    make_shop(folder, ITEMS, USERS)
    return folder


@pytest.fixture(scope="module")
def catalog(shop: Path) -> dict[str, dict[str, str]]:
    with (shop / "catalog.csv").open(encoding="utf-8", newline="") as file:
        return {row["item_id"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def events(shop: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (shop / "events.jsonl").open(encoding="utf-8")]


@pytest.fixture(scope="module")
def users(shop: Path) -> dict[str, dict[str, Any]]:
    rows = [json.loads(line) for line in (shop / "shoppers.jsonl").open(encoding="utf-8")]
    return {row["user_id"]: row for row in rows}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_shop(tmp_path / "one", 14, 20, progress=lambda done, total: calls.append((done, total)))
    make_shop(tmp_path / "two", 14, 20)
    make_shop(tmp_path / "other", 14, 20, seed=1)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["catalog.csv"] != other["catalog.csv"]
    assert one["events.jsonl"] != other["events.jsonl"]
    assert calls == [(done, 14) for done in range(1, 15)]


def test_catalogue(shop: Path, catalog: dict[str, dict[str, str]]) -> None:
    assert len(catalog) == ITEMS
    kinds = Counter(row["category"] for row in catalog.values())
    assert kinds == {kind.category: ITEMS // len(KINDS) for kind in KINDS.values()}
    makers = {brand.name for brand in BRANDS}
    for row in catalog.values():
        assert tuple(row) == COLUMNS
        assert row["title"]
        assert row["description"].endswith(".")
        assert row["brand"] in makers
        assert (row["currency"], row["domain"]) == ("EUR", "demo")
        assert 4 < float(row["price"]) < 2000
        attributes = json.loads(row["attributes"])
        assert attributes["color"] in COLORS
        assert attributes["pattern"] in PATTERNS
        assert attributes["generated"] == "yes"
        images = row["images"].split("|")
        assert images[0] == row["image"]
        for image in images:
            with Image.open(shop / image) as picture:
                assert picture.size == (256, 256)
    with_two = sum("|" in row["images"] for row in catalog.values())
    assert ITEMS / 6 < with_two < ITEMS / 2
    assert len(list((shop / "images").iterdir())) == ITEMS + with_two


def test_events_are_of_known_items_and_users_and_in_order(
    catalog: dict[str, dict[str, str]], events: list[dict[str, Any]], users: dict[str, dict[str, Any]]
) -> None:
    arrived = {item: datetime.fromisoformat(row["updated_at"]).timestamp() for item, row in catalog.items()}
    assert any(time > OPENING for time in arrived.values())
    assert len({event["event_id"] for event in events}) == len(events)
    assert {event["user_id"] for event in events} == set(users)
    assert all(arrived[event["item_id"]] <= event["timestamp"] < OPENING + (DAYS + 1) * DAY for event in events)
    assert all(a["timestamp"] <= b["timestamp"] for a, b in pairwise(events))
    assert {event["type"] for event in events} == set(TYPES)
    assert all(event["domain"] == "demo" for event in events)


def test_what_follows_a_list_was_shown_in_it(events: list[dict[str, Any]]) -> None:
    shown = {(e["request_id"], e["position"]): e for e in events if e["type"] == "impression"}
    lists = Counter(request for request, _ in shown)
    assert all(6 <= length <= 10 for length in lists.values())
    for event in events:
        if event["type"] in ("click", "cart", "purchase"):
            impression = shown[event["request_id"], event["position"]]
            assert impression["timestamp"] < event["timestamp"]
            assert all(impression[name] == event[name] for name in ("user_id", "item_id", "session_id"))
    assert all(1 <= event["value"] <= 5 for event in events if event["type"] == "rating")


def test_clicks_follow_the_taste_and_the_position(
    catalog: dict[str, dict[str, str]], events: list[dict[str, Any]], users: dict[str, dict[str, Any]]
) -> None:
    kind_of = {kind.category: name for name, kind in KINDS.items()}

    def share(type_: str, hit: str) -> float:
        hits = []
        for event in events:
            profile, row = users[event["user_id"]], catalog[event["item_id"]]
            if event["type"] == type_ and not profile["robot"]:
                of_kind = kind_of[row["category"]] in profile["kinds"]
                hits.append(of_kind if hit == "kind" else json.loads(row["attributes"])["color"] in profile["colors"])
        return float(np.mean(hits))

    probability = float(
        np.mean([len(profile["kinds"]) / len(KINDS) for profile in users.values() if not profile["robot"]])
    )
    assert share("impression", "kind") > 1.3 * probability
    assert share("click", "kind") > 1.5 * share("impression", "kind")
    assert share("click", "kind") > 3 * probability
    assert share("click", "color") > 1.2 * share("impression", "color")
    clicks = Counter(event["position"] for event in events if event["type"] == "click")
    assert clicks[0] > 1.5 * clicks[5]


def test_robots_view_at_a_steady_beat_and_buy_nothing(
    events: list[dict[str, Any]], users: dict[str, dict[str, Any]]
) -> None:
    robots = [user for user, profile in users.items() if profile["robot"]]
    assert robots
    for robot in robots:
        mine = [event for event in events if event["user_id"] == robot]
        assert len(mine) >= 300
        assert {event["type"] for event in mine} == {"view"}
        assert len({round(b["timestamp"] - a["timestamp"], 1) for a, b in pairwise(mine)}) == 1


def test_every_kind_is_drawn_in_every_variant_and_each_looks_different() -> None:
    assert set(SHAPES) == set(KINDS)
    looks = [
        Appearance(kind, variant, "blue", "plain", 3)
        for kind, shape in SHAPES.items()
        for variant in range(len(shape.variants))
    ]
    pictures = np.stack([np.asarray(draw(look)[0].convert("L").resize((64, 64)), np.float32) for look in looks])
    apart = np.abs(pictures[:, None] - pictures[None]).max(axis=(2, 3)) + 255 * np.eye(len(looks))
    assert apart.min() > 20


@pytest.mark.parametrize(("color", "low", "high"), [("red", -0.06, 0.06), ("blue", 0.53, 0.67), ("green", 0.25, 0.45)])
def test_colour_can_be_seen(color: str, low: float, high: float) -> None:
    red, green, blue = middle("mug", color)
    hue, saturation, _ = colorsys.rgb_to_hsv(red, green, blue)
    assert low < (hue if hue < 0.9 else hue - 1) < high
    assert saturation > 0.35


def test_brightness_and_pattern_can_be_seen() -> None:
    assert np.mean(middle("t-shirt", "white")) > np.mean(middle("t-shirt", "black")) + 0.4
    for pattern in PATTERNS[1:]:
        assert spread(pattern) > 2 * spread("plain")


def test_second_photo_is_another_picture_of_the_same() -> None:
    first, second = draw(Appearance("backpack", 0, "teal", "dotted", 5), photos=2)
    assert first.size == second.size
    assert np.abs(np.asarray(first, float) - np.asarray(second, float)).mean() > 5


def test_goods_of_any_number_and_colours_in_one_family() -> None:
    assert len({product.item_id for product in make_products(100, 1)}) == 100
    assert sorted(color for family in COLOR_FAMILIES.values() for color in family) == sorted(COLORS)


def middle(kind: str, color: str) -> tuple[float, float, float]:
    """The mean colour in the middle of the item, each channel 0 to 1."""
    pixels = np.asarray(draw(Appearance(kind, 0, color, "plain", 1))[0], float)[110:170, 95:130] / 255
    red, green, blue = pixels.mean(axis=(0, 1)).tolist()
    return red, green, blue


def spread(pattern: str) -> float:
    return float(
        np.asarray(draw(Appearance("t-shirt", 0, "navy", pattern, 1))[0].convert("L"), float)[110:170, 95:160].std()
    )
