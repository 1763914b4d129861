"""How words and photos of a shop enter its image space: what is learned, when it is used, and what it gives."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from embed.alignment import photo_adapter
from embed.alignment.adapter_training import train_photo_adapter, train_text_adapter
from embed.alignment.alignment import Alignment, AlignmentMetadata
from embed.alignment.pairs import (
    MAX_SHARING,
    ProductPhotos,
    TextImagePairs,
    collect_pairs,
    collect_photos,
    group_products,
)
from embed.alignment.photo_adapter import apply_photo_adapter, fit_photo_adapter
from embed.alignment.text_adapter import image_ranks
from embed.behaviour import Event
from embed.catalogue import Catalogue, ingest
from embed.encode_job import encode_images
from embed.encoders.encoder import unit_rows
from embed.errors import Damaged, Missing
from embed.images import ImageSource
from embed.text_composition import search_texts
from serve import cli
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.engine.query import Query
from serve.jobs.build import align_catalogue, build
from serve.live.replica import open_engine
from serve.release.repository import open_current
from serve.storage.event_log import open_event_log

RANDOM = np.random.default_rng(0)


def facts(joint: bool = False) -> AlignmentMetadata:
    return AlignmentMetadata(image="i", words="w", joint=joint, items=1, pairs=1, photographed=1)


def pairs_of(words: NDArray[Any], images: NDArray[Any]) -> TextImagePairs:
    n = len(images)
    views = np.stack([unit_rows(words + 0.05 * RANDOM.normal(size=words.shape)) for _ in range(3)])
    return TextImagePairs(unit_rows(images), views, np.arange(n), np.arange(n), np.arange(3 * n).reshape(3, n))


def test_words_that_tell_of_images_are_learned_and_those_that_do_not_are_left_alone(tmp_path: Path) -> None:
    words = RANDOM.normal(size=(300, 24)).astype(np.float32)
    images = words @ RANDOM.normal(size=(24, 40)).astype(np.float32)
    told = facts()
    tensors = train_text_adapter(pairs_of(words, images), told, tmp_path, "cpu", None)
    assert told.of_words is not None
    assert told.of_words.queries == 60
    assert told.of_words.before < 0.1
    assert told.of_words.after > 0.8
    assert told.of_words.better
    # What is kept is what was measured: without dropout, and with the mean and scale of the data.
    found = Alignment(told, tensors).adapt_texts(unit_rows(words))
    assert (image_ranks(found, unit_rows(images), unit_rows(images)) <= 10).mean() > 0.9
    told = facts()
    assert train_text_adapter(pairs_of(words, RANDOM.permutation(images)), told, tmp_path, "cpu", None) == {}
    assert told.of_words is not None
    assert not told.of_words.better


def test_in_a_joint_space_words_begin_where_the_encoder_puts_them(tmp_path: Path) -> None:
    words = RANDOM.normal(size=(250, 24)).astype(np.float32)
    images = words + 0.1 * RANDOM.normal(size=words.shape).astype(np.float32)
    told = facts(joint=True)
    tensors = train_text_adapter(pairs_of(words, images), told, tmp_path, "cpu", None)
    assert told.of_words is not None
    assert told.of_words.before == 1  # nothing to gain
    assert tensors == {}
    bent = 0.4 * images + images @ np.linalg.qr(RANDOM.normal(size=(24, 24)))[0].astype(np.float32)
    tensors = train_text_adapter(pairs_of(words, bent), told := facts(joint=True), tmp_path, "cpu", None)
    assert told.of_words is not None
    assert 0.1 < told.of_words.before < told.of_words.after
    assert Alignment(told, tensors).has_text_adapter


def photos_of(nuisance: float) -> ProductPhotos:
    product = np.repeat(np.arange(80), 4)
    center = RANDOM.normal(size=(80, 32))
    light = RANDOM.normal(size=(320, 3)) @ RANDOM.normal(size=(3, 32))
    vectors = center[product] + nuisance * light + 0.3 * RANDOM.normal(size=(320, 32))
    return ProductPhotos(unit_rows(vectors), product)


def test_what_differs_between_photos_of_a_product_counts_less_also_for_products_not_learned_from() -> None:
    photos = photos_of(nuisance=4)
    told = facts()
    tensors = train_photo_adapter(photos, told)
    assert told.of_photos is not None
    assert told.of_photos.better
    assert told.of_photos.after > told.of_photos.before + 0.2
    strange = photos_of(nuisance=0)
    plain = facts()
    assert train_photo_adapter(strange, plain) == {}
    assert plain.of_photos is not None
    assert not plain.of_photos.better
    both = Alignment(told, tensors)
    np.testing.assert_allclose(both.adapt_photos(photos.images), apply_photo_adapter(photos.images, tensors))
    np.testing.assert_array_equal(Alignment(plain, {}).adapt_photos(photos.images), photos.images)


def test_the_photo_adapter_is_the_inverse_of_the_covariance_within_products() -> None:
    photos = photos_of(nuisance=2)
    apart = np.concatenate(
        [
            (photos.images[photos.product == one] - photos.images[photos.product == one].mean(0)) * (4 / 3) ** 0.5
            for one in range(80)
        ]
    )
    covariance = apart.T @ apart / len(apart)
    covariance /= np.trace(covariance) / 32
    shuffled = RANDOM.permutation(len(photos))
    tensors = fit_photo_adapter(ProductPhotos(photos.images[shuffled], photos.product[shuffled]), 0.5)
    np.testing.assert_allclose(
        tensors["photos_matrix"], 0.5 * np.linalg.inv(covariance + 0.5 * np.eye(32)), rtol=1e-3, atol=1e-4
    )


@given(st.integers(0, 1000))
def test_ranks_are_those_of_a_naive_count(seed: int) -> None:
    random = np.random.default_rng(seed)
    product = random.integers(0, 4, 14)
    product[:8] = np.repeat(np.arange(4), 2)
    photos = ProductPhotos(unit_rows(random.normal(size=(14, 3))), product)
    asked = random.permutation(14)[:6]
    queries = unit_rows(random.normal(size=(6, 3)))
    for query, row, rank in zip(queries, asked, photo_adapter.photo_ranks(queries, asked, photos), strict=True):
        scores = [(float(query @ photos.images[other]), product[other]) for other in range(14) if other != row]
        ordered = [of for _, of in sorted(scores, key=lambda pair: -pair[0])]
        assert rank == 1 + ordered.index(product[row])
    for query, row, rank in zip(queries, asked, image_ranks(queries, photos.images[asked], photos.images), strict=True):
        others = [float(query @ photos.images[other]) for other in range(14)]
        assert rank == 1 + sum(score > float(query @ photos.images[row]) + 1e-6 for score in others)


class Lengths:
    """A text encoder for tests: a text's length and its words, as a direction."""

    name, dim, fingerprint = "lengths", 2, "lengths"

    def encode_texts(self, texts: Any, query: bool = False) -> Any:
        rows = np.array([[len(text), text.count(" ") + 1] for text in texts], np.float32)
        return type("Encoded", (), {"vectors": unit_rows(rows), "truncated": 0})


class Corners:
    """An image encoder for tests: the colour of the first pixel."""

    name, dim, fingerprint, shrink_to, batch, decode = "corners", 3, "corners", 8, 4, None

    def prepare(self, image: Any) -> NDArray[Any]:
        return np.asarray(image)[0, 0]

    def encode_images(self, prepared: Any) -> NDArray[np.float32]:
        return unit_rows(np.stack(prepared) + 1.0)


def small_catalogue(folder: Path) -> Catalogue:
    colors = {"red": (200, 0, 0), "blue": (0, 0, 200), "green": (0, 200, 0), "none": (90, 90, 90), "dark": (9, 0, 0)}
    colors["white"] = (250, 250, 250)
    for name, color in colors.items():
        Image.new("RGB", (8, 8), color).save(folder / f"{name}.png")
    jacket = {"category": "Men/Jackets", "attributes": {"color": ["Red"]}}
    rows = [
        {"item_id": "a", "title": "Jacket One", "images": ["red.png"], **jacket},
        {"item_id": "b", "title": "jacket  one", "images": ["blue.png"], **jacket},
        {"item_id": "c", "title": "Coat", "images": ["red.png"]},
        {"item_id": "d", "title": "Shirt", "images": ["green.png", "dark.png"]},
        {"item_id": "e", "title": "Top", "images": ["white.png"], "attributes": {"item_group_id": ["G1"]}},
        {"item_id": "f", "images": ["green.png"], "attributes": {"item_group_id": ["G1"]}},
        {"item_id": "g", "title": "No photo at all", "images": ["gone.png"]},
        *({"item_id": f"h{n}", "title": f"Thing {n}", "images": ["none.png"]} for n in range(MAX_SHARING + 1)),
    ]
    (folder / "feed.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ingest(folder / "feed.jsonl", folder / "store")
    return Catalogue.current(folder / "store")


def test_variants_are_one_product_and_a_placeholder_makes_no_product_of_all(tmp_path: Path) -> None:
    catalogue = small_catalogue(tmp_path)
    images = encode_images(tmp_path / "store", catalogue, Corners(), ImageSource(tmp_path))
    product = group_products(catalogue, images)
    named = dict(zip(catalogue.ids().to_pylist(), product.tolist(), strict=True))
    assert named["a"] == named["b"] == named["c"]  # a title, then a photo
    assert named["d"] == named["e"] == named["f"]  # a photo, then a group
    assert len(set(named.values())) == 3 + MAX_SHARING + 1
    pairs = collect_pairs(catalogue, images, product, Lengths(), 0)
    assert len(pairs) == 5  # f has no words, g no photo, h only what stands for none
    assert pairs.image[0] == pairs.image[2] != pairs.image[1]
    np.testing.assert_allclose(pairs.images[0], unit_rows(np.array([[201, 1, 1]]))[0], atol=1e-6)
    whole = "Red Jacket One Men Jackets"
    assert search_texts(catalogue.item(0)) == [whole, "Red Jacket One", "Red Jackets"]
    np.testing.assert_allclose(pairs.words[0, 0], Lengths().encode_texts([whole]).vectors[0])
    photos = collect_photos(images, product, 0)
    assert np.bincount(photos.product)[[named["a"], named["d"]]].tolist() == [2, 3]
    assert len(photos) == 5


def test_what_is_written_is_read_and_what_is_damaged_is_named(tmp_path: Path) -> None:
    photos = photos_of(nuisance=1)
    made = Alignment(facts(), fit_photo_adapter(photos, 1.0))
    for name, data in made.files().items():
        (tmp_path / name).write_bytes(data)
    again = Alignment.open(tmp_path)
    assert again.fingerprint == made.fingerprint
    np.testing.assert_array_equal(again.adapt_photos(photos.images), made.adapt_photos(photos.images))
    for name in made.files():
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(kept[:40])
        with pytest.raises(Damaged, match="vetrina align"):
            Alignment.open(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(Missing, match="vetrina align"):
            Alignment.open(tmp_path)
        (tmp_path / name).write_bytes(kept)


def test_words_find_images_in_a_built_shop(built: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    release = open_current(built.store)
    told = release.manifest.alignment
    assert told is not None
    assert told.of_words is not None
    assert told.of_words.better
    engine = open_engine(built)
    item = release.catalogue.item(0)
    found = engine.search(Query(k=10, text=search_texts(item)[0], spaces=["image"]))
    assert item.item_id in [engine.snapshot.item_id(one.item_index) for one in found]
    assert set(found[0].retriever_scores) == {"image"}
    both = engine.search(Query(k=10, text=item.title))
    assert set(both[0].retriever_scores) == {"image", "text", "keywords"}
    # Kept as long as the catalogue is much the same: a second build learns nothing and publishes nothing.
    monkeypatch.setattr("serve.jobs.align._learn", None)
    assert not build(built).published


def test_the_command_line_learns_anew_and_a_setting_turns_it_off(
    built: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    shutil.copytree(built.store, store, symlinks=True)
    before = {path: path.read_bytes() for path in (store / "alignment" / "current").iterdir()}
    images = str(built.image_root or built.store.parent)
    monkeypatch.setattr("sys.argv", ["vetrina", "align", "--store", str(store), "--images", images])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    assert "alignment of texts: recall@10 0.000 -> " in capfd.readouterr().out
    assert before == {path: path.read_bytes() for path in (store / "alignment" / "current").iterdir()}  # seeded
    plain = Settings(store=store, image_root=Path(images), align=False)
    assert build(plain).published
    engine = open_engine(plain)
    with pytest.raises(BadRequest, match="takes text"):
        engine.search(Query(k=3, text="jacket", spaces=["image"]))


def test_words_that_only_shoppers_use_are_learned_from_their_clicks(built: Settings, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(built.store, store, symlinks=True)
    configured = Settings(store=store, image_root=built.store.parent)
    items = [item for batch in Catalogue.current(store).batches() for item in batch]
    called = {item.item_id for item in items if (item.category or "").startswith("Shoes/")}

    def found() -> int:
        engine = open_engine(configured)
        return sum(
            engine.snapshot.item_id(one.item_index) in called
            for one in engine.search(Query(k=10, text="flimflam", spaces=["image"]))
        )

    before = found()
    log = open_event_log(configured)
    events = [Event(f"e{item}", f"u{item}", item, "click", 1767225600.0, query="flimflam") for item in sorted(called)]
    log.add([*events, Event("gone", "u", "no such item", "click", 1767225600.0, query="flimflam")])
    log.close()
    kept = build(configured).manifest.alignment
    assert kept is not None
    assert kept.searches == 0  # few are no reason to learn anew
    assert align_catalogue(configured).facts.searches == len(called)
    assert build(configured).published
    assert before <= 5
    assert found() >= 9


@pytest.mark.parametrize("column", ["title", "image"])
def test_a_shop_of_photos_or_of_words_alone_is_built(tmp_path: Path, column: str) -> None:
    for number in range(4):
        Image.new("RGB", (64, 64), (40 * number, 9, 9)).save(tmp_path / f"{number}.png")
    (tmp_path / "feed.csv").write_text("\n".join([f"item_id,{column}", *(f"i{n},{n}.png" for n in range(4))]))
    settings = Settings(store=tmp_path / "store")
    made = build(settings, tmp_path / "feed.csv").manifest
    assert (made.alignment is None) == (column == "title")
    assert not build(settings).published
