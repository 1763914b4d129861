"""Messy inputs: every file of an optional folder comes to its right outcome, over HTTP and by the command line.

What is right is stated in the folder's README. TABLE has a row for each file: its class says how such a file goes in
each way, its fields what must come of it. HTTP is a real server; commands run in this process as `vetrina` runs them.
"""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers.messy.artifacts import Artifact, GoodIndex, Library, Vectors, one_id_short, published, put_good_index
from helpers.messy.catalogue import Feed, NoProducts, by_every_command, everywhere
from helpers.messy.events import Events, ForeignEvents
from helpers.messy.images import Image, first_frame, gray, ramp, same
from helpers.messy.requests import Request, Urls
from helpers.messy.workspace import ASKED, IMAGES, INPUTS, ODD_ID, T0, Row, Shop, vetrina
from helpers.service import served

from serve.core.settings import Settings
from serve.release.repository import make_current

pytestmark = pytest.mark.skipif(not INPUTS.is_dir(), reason=f"the folder of messy inputs {INPUTS} is not here")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("messy")
    items = [
        *({"item_id": path.name, "title": f"picture {path.name}", "image": path.name} for path in IMAGES.iterdir()),
        *({"item_id": number, "title": f"{kind} shoe"} for number, kind in ((1001, "red"), (1002, "blue"))),
        *({"item_id": str(number), "title": f"red shoe number {number}"} for number in (1003, 7, 70, 700)),
    ]
    (folder / "feed.jsonl").write_bytes(b"".join(orjson.dumps(item) + b"\n" for item in items))
    store = folder / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VETRINA_ALIGN", "false")
        ingested = vetrina("ingest", folder / "feed.jsonl", "--store", store, "--json").json
        assert ingested["read"] == ingested["kept"] == len(items)
        encoded = vetrina("encode", "--store", store, "--images", IMAGES, "--json").json
        built = vetrina("build", "--store", store, "--images", IMAGES, "--json").json
        assert built["items"] == len(items)
        assert all(space["encoded"] == 0 for space in built["encoded"])
    served_store = folder / "served"
    shutil.copytree(store, served_store, symlinks=True)
    with served(Settings(store=served_store, image_root=IMAGES, allow_http_images=True)) as service:
        yield Shop(store, {space["space"]: space for space in encoded}, service, served_store)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder of its own, where a pickle would leave its mark; and nobody beyond the loopback is asked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VETRINA_ALIGN", "false")
    connect, look_up = socket.socket.connect, socket.getaddrinfo
    ASKED.clear()

    def connected(self: socket.socket, address: Any) -> None:
        ASKED.append((str(address[0]), address[1]))
        assert str(address[0]).startswith("127."), f"a connection to {address}"
        connect(self, address)

    def looked_up(host: Any, port: Any, *arguments: Any, **more: Any) -> Any:
        ASKED.append((str(host), port))
        assert str(host).startswith("127."), f"{host} was looked up"
        return look_up(host, port, *arguments, **more)

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", looked_up)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("library")
    feed, store = folder / "feed.csv", folder / "store"
    lines = [f"{number},book {number},reference_ok.jpg\n" for number in range(200)]
    feed.write_text("item_id,title,image\n" + "".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VETRINA_ALIGN", "false")
        vetrina("build", feed, "--store", store, "--images", IMAGES)
    release = published(store, lambda folder: put_good_index(folder, INPUTS / "artifacts/index_ok_200x16.faiss"))
    make_current(store, release)
    with served(Settings(store=store)) as service:
        yield Library(store, service, release)


def titled(**titles: str | None) -> dict[str, dict[str, Any]]:
    return {item_id.lstrip("_"): {"title": title} for item_id, title in titles.items()}


PRICES = [1299.0] * 5 + [None, None, 0.0, None, None, 3.5, None, None]


TABLE: dict[str, Row] = {
    "images/animated.gif": Image(first_frame),
    "images/animated.webp": Image(first_frame),
    "images/bomb_25000x25000_1bit.png": Image(refused="too_many_pixels"),
    "images/cmyk.jpg": Image(same),
    "images/exif_orientation6.jpg": Image(same),
    "images/gray16.png": Image(ramp),
    "images/gray8.jpg": Image(gray),
    "images/html_page.jpg": Image(refused="not_an_image"),
    "images/one_pixel.png": Image(refused="too_small"),
    "images/photo.avif": Image(same),
    "images/png_named_as.jpg": Image(same),
    "images/reference_ok.jpg": Image(same),
    "images/reference_ok.png": Image(same),
    "images/truncated.jpg": Image(refused="truncated"),
    "images/truncated.png": Image(refused="truncated"),
    "images/vector.svg": Image(refused="unsupported_format"),
    "images/wide_2000x3.png": Image(refused="bad_ratio"),
    "images/zero_bytes.jpg": Image(refused="empty"),
    "catalogue/bom_header.csv": Feed(
        {
            "1001": {"title": "Red running shoe", "description": "Light road shoe", "price": 59.9, "currency": "EUR"},
            "1002": {"title": "Blue running shoe", "description": "Trail shoe", "price": 69.9, "currency": "EUR"},
        },
        encoding="utf-8-sig",
    ),
    "catalogue/broken_lines.jsonl": Feed(
        {
            "8301": {"title": "good", "price": 9.9},
            "8303": {"title": "good after bad", "price": 9.9},
            "8304": {"title": "NaN price", "price": None},
            "8305": {"title": "last line has no newline", "price": 9.9},
        },
        {2: "bad_json", 6: "not_an_object"},
        {"price_unknown": 1},
    ),
    "catalogue/duplicate_ids.csv": Feed(
        {
            "1001": {"title": "Red running shoe (new title)", "description": "Newer row", "price": 49.9},
            "1003": {"title": "Sock with padded id"},
        },
        {2: "duplicate_id", 4: "duplicate_id"},
    ),
    "catalogue/emoji_cjk_rtl.jsonl": Feed(
        titled(
            _6201="👟🔥 Sneaker 👩🏽\u200d🚀🏳\ufe0f\u200d🌈",
            _6202="红色跑步鞋 男士",
            _6203="赤いランニングシューズ",
            _6204="حذاء جري أحمر",
            _6205="נעל ריצה אדומה",
            _6206="\u202eeohs detresrever",
            _6207="Ｒｅｄ\u3000ｓｈｏｅ",
            _6208="İSTANBUL ıslak STRASSE straße",
            _6209="👟",
            _6210=None,  # blank, so that only its image and its category are left of it
        ),
        truncated=0,
    ),
    "catalogue/empty.csv": NoProducts(),
    "catalogue/header_only.csv": NoProducts(),
    "catalogue/html_description.jsonl": Feed(
        {
            "6001": {"title": "Lamp", "description": "Bright & warm lamp E27 €5 off"},
            "6002": {"title": "5 < 6 & 7 > 2 puzzle", "description": "plain text, not HTML: a<b and b>c"},
        },
        repaired={"html_stripped": 1},
    ),
    "catalogue/leading_zero_ids.csv": Feed(
        titled(_00123="Mug A", _123="Mug B", _0123="Mug C", _1e5="Mug D", _100000="Mug E")
    ),
    "catalogue/long_description.jsonl": Feed(
        {
            "6101": {"title": "Table lamp", "description": ("Hand-made table lamp. " * 500)[:10_000].strip()},
            "6102": {"title": ("lamp " * 200).strip(), "description": "title itself is over 77 tokens"},
            "6103": {"title": "x" * 5000, "description": "one word of 5,000 letters"},
        },
        truncated=1,
    ),
    "catalogue/missing_and_nan_titles.csv": Feed(
        {
            "2001": {"title": None, "description": "Only a description"},
            "2002": {"title": None, "description": "Blank title"},
            "2003": {"title": "NaN", "description": "Indian bread brand"},
            "2004": {"title": "NA", "description": "Namibia travel map"},
            "2005": {"title": "None", "description": "Perfume called None"},
        },
        {7: "nothing_to_embed", 8: "nothing_to_embed"},
    ),
    "catalogue/mixed_encodings.csv": Feed(titled(_8001="Crème brûlée (UTF-8)"), {3: "bad_encoding", 4: "bad_encoding"}),
    "catalogue/null_bytes.csv": Feed(titled(_8101="Null inside", _8102="Clean row"), repaired={"nul_removed": 1}),
    "catalogue/number_ids.jsonl": Feed(
        {"7001": {"title": "string id, same digits"}, ODD_ID: {"title": "id with URL characters"}},
        {1: "duplicate_id", 3: "bad_id", 4: "missing_id", 5: "missing_id", 6: "bad_id", 7: "bad_id"},
        then=everywhere,
        then_command=by_every_command,
    ),
    "catalogue/one_bad_row.csv": Feed(
        titled(_4001="Good A", _4004='Unclosed "quote inside', _4005="Good B"), {3: "long_row", 4: "short_row"}
    ),
    "catalogue/prices.csv": Feed(
        {str(5001 + row): {"title": f"Priced item {row}", "price": price} for row, price in enumerate(PRICES)},
        repaired={"price_unknown": 5},
    ),
    "catalogue/quotes_and_newlines.csv": Feed(
        {
            "3001": {
                "title": '24" monitor, "UltraSharp"',
                "description": "Line one\nLine two, with comma\n\nLine four",
                "price": 199.0,
            },
            "3002": {
                "title": "After the multi-line row",
                "description": "must still be product 3002",
                "price": 9.0,
                "currency": "EUR",
                "images": ["reference_ok.jpg"],
            },
        }
    ),
    "catalogue/semicolon_decimal_comma.csv": Feed({"8401": {"title": "Lampe", "price": 12.5, "currency": "EUR"}}),
    "catalogue/utf16.csv": Feed(titled(_8201="UTF-16 Excel export"), encoding="utf-16"),
    "events/duplicates.jsonl": Events({"u1": [("1001", "click", T0, None)] * 2}, duplicates=3),
    "events/future_and_zero.jsonl": Events(
        {"u1": [("1001", "click", T0, None)]},
        rejects={
            2: "time_ahead",
            3: "time_too_early",
            4: "time_too_early",
            5: "missing_time",
            6: "missing_time",
            7: "bad_time",
        },
    ),
    "events/gorse_style.csv": ForeignEvents(),
    "events/iso_timezones.jsonl": Events(
        {"u1": [("1001", "click", T0, None)] * 7}, rejects=dict.fromkeys((8, 9, 10, 11), "bad_time")
    ),
    "events/negative_ratings.jsonl": Events(
        {"u1": [("1001", "rating", T0, -1.0), ("1002", "rating", T0, 5.0), ("1001", "dislike", T0, None)]},
        duplicates=2,
        rejects={3: "bad_value", 4: "bad_value"},
        liked="1002",
    ),
    "events/out_of_order.jsonl": Events(
        {
            "u1": [
                ("1001", "click", T0 + 300, None),
                ("1003", "purchase", T0 + 200, None),
                ("1002", "click", T0 + 100, None),
                ("1003", "click", T0 + 50, None),
            ],
            "u2": [("1001", "click", T0 + 10, None)],
        }
    ),
    "events/unknown_ids.jsonl": Events(
        {
            "u1": [("no-such-item", "click", T0, None)],
            "never-seen-user": [("1001", "click", T0, None)],
            "42": [("1001", "click", T0, None)],
        },
        rejects={3: "missing_user_id", 4: "missing_user_id", 5: "missing_item_id", 6: "unknown_type"},
    ),
    "requests/blank_query.json": Request("text"),
    "requests/empty_query.json": Request("text"),
    "requests/exclude_10000_ids.json": Request(),
    "requests/k_negative.json": Request("k"),
    "requests/k_too_large.json": Request("k"),
    "requests/k_zero.json": Request("k"),
    "requests/ssrf_urls.txt": Urls(),
    "artifacts/canary_ids.npy": Artifact("ids_order.npy"),
    "artifacts/canary_metadata.pkl": Artifact("spaces/image/space.json"),
    "artifacts/ids_one_short.json": Artifact("ids.arrow", one_id_short),
    "artifacts/index_cut_half.faiss": Artifact("spaces/image/index.faiss"),
    "artifacts/index_ok_200x16.faiss": GoodIndex(),
    "artifacts/index_zero_bytes.faiss": Artifact("spaces/image/index.faiss"),
    "artifacts/vectors_nan_zero_unnormalised.npy": Vectors((3, 7, 13)),
}


@pytest.mark.parametrize(
    ("name", "way"),
    [(name, way) for name in TABLE for way in ("http", "command")],
)
def test_messy(request: pytest.FixtureRequest, name: str, way: str) -> None:
    row = TABLE[name]
    getattr(row, way)(request.getfixturevalue(row.place), INPUTS / name)


def test_the_table_names_every_file_and_no_other() -> None:
    files = {path.relative_to(INPUTS).as_posix() for path in INPUTS.rglob("*") if path.is_file()}
    assert files - {"README.md"} == set(TABLE)
