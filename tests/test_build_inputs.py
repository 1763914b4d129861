"""What a build was given is kept, and a build whose photos cannot be read is refused."""

import csv
import json
import shutil
from pathlib import Path

import httpx
import pytest
from helpers.command import Run
from helpers.service import good, refused, served
from helpers.shop import QUICK

from embed.encode_job import ImageFailure
from embed.errors import Missing
from serve.core.errors import BadRequest, StoreUnavailable
from serve.core.settings import Settings
from serve.jobs.build import build
from serve.jobs.doctor import examine
from serve.jobs.import_events import import_events
from serve.jobs.photo_check import likely_folder
from serve.jobs.train import train
from serve.live.runtime import ServiceRuntime
from serve.release.build_inputs import FILE, MAPPING, BuildInputs, read_build_inputs, write_build_inputs
from serve.release.repository import current_name, open_current


@pytest.fixture
def parts(shop: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The feed of the drawn shop in one folder, and its photos below another."""
    feed = tmp_path / "feeds" / "catalog.csv"
    feed.parent.mkdir()
    shutil.copy(shop / "catalog.csv", feed)
    photos = tmp_path / "media" / "shop"
    shutil.copytree(shop / "images", photos / "images")
    return feed, photos


def write_feed(path: Path, images: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "title", "image"])
        writer.writerows([number, f"red shoe {number}", image] for number, image in enumerate(images))
    return path


def test_a_build_keeps_what_it_was_given(shop: Path, parts: tuple[Path, Path], tmp_path: Path) -> None:
    feed, photos = parts
    store = tmp_path / "store"
    mapping = tmp_path / "mapping.toml"
    mapping.write_text("")
    first = build(Settings(store=store, image_root=photos, mapping=mapping), feed)
    assert first.published
    assert read_build_inputs(store) == BuildInputs(feed=feed, mapping=MAPPING, images=photos)

    plain = Settings(store=store, towers=QUICK)  # type: ignore[arg-type]
    import_events(plain, shop / "events.jsonl")
    train(plain)
    again = build(plain, feed)
    assert again.published
    assert again.manifest.spaces["image"].rows == first.manifest.spaces["image"].rows
    assert again.manifest.tower is not None
    states = {finding.subject: finding.state for finding in examine(plain)}
    assert (states["build inputs"], states["photos"]) == ("good", "good")
    with served(Settings(store=store)) as service:
        item_id = open_current(store).item(0).item_id
        photo = service.client.get(f"/v1/items/{item_id}/image")
        assert photo.status_code == 200, photo.text
        assert photo.headers["content-type"].startswith("image/")

    moved = photos.with_name("moved")
    photos.rename(moved)
    wrong = {finding.subject for finding in examine(plain) if finding.state == "wrong"}
    assert wrong == {"image folder"}
    assert not build(Settings(store=store, image_root=moved)).published  # the same photos: the same release
    assert read_build_inputs(store).images == moved


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_copied_store_needs_neither_the_mapping_nor_its_category_tree(tmp_path: Path, suffix: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    separator = "\t" if suffix == ".tsv" else ","
    tree = [("id", "name", "parent_id"), ("10", "Men, all", ""), ("14", "Hoodies", "10")]
    quote = '"' if suffix == ".csv" else ""
    rows = (separator.join(f"{quote}{value}{quote}" for value in row) for row in tree)
    (home / f"my.tree{suffix}").write_text("\n".join(rows))
    mapping = home / "names.toml"
    mapping.write_text(
        f'[columns]\nitem_id = "sku"\ntitle = "name"\n[category_tree]\nfile = "../home/my.tree{suffix}"\n'
        '[defaults]\ncurrency = "SEK"\n'
    )
    feed = tmp_path / "feed.csv"
    feed.write_text("sku,name,category\na,Red hoodie,14\nb,Blue hoodie,14\n")
    build(Settings(store=tmp_path / "store", mapping=mapping), feed)
    shutil.rmtree(home)
    (tmp_path / "store").rename(tmp_path / "moved")
    settings = Settings(store=tmp_path / "moved")
    assert not [
        finding for finding in examine(settings) if finding.subject == "build inputs" and finding.state != "good"
    ]
    feed.write_text(feed.read_text() + "c,Green hoodie,10\n")
    assert build(settings, feed).manifest.items == 3
    with served(settings) as service:
        put = service.client.put("/v1/items", json={"items": [{"item_id": "d", "title": "New hoodie", "price": 5}]})
        assert good(put)["items"][0]["status"] == "created"
        for item_id, category in (("a", "Men, all/Hoodies"), ("c", "Men, all")):
            assert good(service.client.get(f"/v1/items/{item_id}"))["item"]["category"] == category
        assert good(service.client.get("/v1/items/d"))["item"]["currency"] == "SEK"
    feed.write_text("item_id,title,category\na,Red hoodie,14\nb,Blue hoodie,14\n")
    mapping = tmp_path / "plain.toml"
    mapping.write_text("")
    build(settings.model_copy(update={"mapping": mapping}), feed)
    assert read_build_inputs(settings.store).category_tree is None


def test_the_service_starts_without_the_mapping_of_the_last_build_and_says_what_to_do(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "store")
    build(settings, write_feed(tmp_path / "feed.csv", ["", ""]))
    write_build_inputs(settings.store, BuildInputs(mapping=tmp_path / "gone.toml"))
    with served(settings) as service:
        assert len(good(service.search(text="shoe"))["items"]) == 2
        put: httpx.Response = service.client.put("/v1/items", json={"items": [{"item_id": "c", "title": "mug"}]})
        assert "--mapping FILE" in refused(put, 503)["message"]
    with pytest.raises(StoreUnavailable, match=r"gone\.toml does not exist.*--mapping FILE"):
        build(settings, tmp_path / "feed.csv")
    with pytest.raises(Missing, match=r"named\.toml"):
        ServiceRuntime(settings.model_copy(update={"mapping": tmp_path / "named.toml"}))


def test_a_lost_image_folder_does_not_stop_the_service_and_a_build_names_it(
    parts: tuple[Path, Path], tmp_path: Path
) -> None:
    feed, photos = parts
    settings = Settings(store=tmp_path / "store")
    build(settings.model_copy(update={"image_root": photos}), feed)
    shutil.rmtree(photos)
    with pytest.raises(BadRequest, match=f"looked for in {photos}: build again with --images FOLDER"):
        build(settings)
    with served(settings) as service:
        item_id = open_current(settings.store).item(0).item_id
        assert good(service.search(text="mug"))["items"]
        assert service.client.get(f"/v1/items/{item_id}/image").status_code == 404
        put = service.client.put(
            "/v1/items", json={"items": [{"item_id": "c", "title": "mug", "image": "images/c.jpg"}]}
        )
        assert good(put)["items"][0]["status"] == "created"


def test_files_that_cannot_be_examined_are_no_likely_photos(tmp_path: Path) -> None:
    settings = Settings(store=tmp_path / "store", image_root=tmp_path)
    names = ["x" * 300 + ".jpg", "/" + "y" * 300 + ".jpg"]  # the system refuses to examine them, as in a closed folder
    failures = [ImageFailure("a", name, "not_found", "not found") for name in names]
    assert likely_folder(settings, tmp_path / ("z" * 300), failures) is None


def test_a_format_is_kept_for_feeds_of_the_same_kind(tmp_path: Path) -> None:
    feed = tmp_path / "feed.txt"
    feed.write_text('{"item_id": "1", "title": "red shoe"}\n')
    settings = Settings(store=tmp_path / "store")
    build(settings, feed, "jsonl")
    assert read_build_inputs(settings.store).format == "jsonl"
    build(settings, feed)
    other = tmp_path / "feed.csv"
    other.write_text("item_id,title\n1,red shoe\n")
    build(settings, other)
    assert read_build_inputs(settings.store) == BuildInputs(feed=other)


def test_damaged_inputs_are_named(tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed.csv", [""])
    settings = Settings(store=tmp_path / "store")
    build(settings, feed)
    (settings.store / FILE).write_text("{")
    with pytest.raises(StoreUnavailable, match=FILE):
        build(settings)
    assert "build inputs" in {finding.subject for finding in examine(settings) if finding.state == "wrong"}


def test_a_build_whose_photos_cannot_be_read_names_a_likely_folder(
    run: Run, parts: tuple[Path, Path], tmp_path: Path
) -> None:
    feed, photos = parts
    store = tmp_path / "store"
    code, printed, errors = run("build", feed, "--store", store, "--images", tmp_path / "feeds")
    assert (code, printed) == (2, "")
    message = " ".join(errors.split())
    assert "100 of 100 photos could not be read" in message
    assert "The first, of item MUG-0005: 'images/MUG-0005.jpg'" in message
    assert f"--images {photos}" in message
    assert current_name(store) is None
    assert read_build_inputs(store).images is None
    report = json.loads(run("build", feed, "--store", store, "--force", "--json")[1])
    assert report["published"]
    assert {space["space"]: space["failed"] for space in report["encoded"]} == {"image": 100, "text": 0}
    settings = Settings(store=store)
    assert "photos" in {finding.subject for finding in examine(settings) if finding.state == "wrong"}
    assert run("build", feed, "--store", store, "--images", photos)[0] == 0
    assert open_current(store).manifest.spaces["image"].rows == 100


def test_half_of_the_photos_may_fail(shop: Path, tmp_path: Path) -> None:
    good = sorted(path.name for path in (shop / "images").iterdir())[:2]
    settings = Settings(store=tmp_path / "store", image_root=shop / "images")
    assert build(settings, write_feed(tmp_path / "half.csv", [*good, "none.jpg", "nothing.jpg"])).published
    with pytest.raises(BadRequest, match="3 of 5 photos could not be read") as refused:
        build(settings, write_feed(tmp_path / "most.csv", [*good, "none.jpg", "nothing.jpg", "never.jpg"]))
    assert refused.value.field == "images"
    assert "none.jpg" in refused.value.message


def test_a_feed_without_photos_builds(run: Run, tmp_path: Path) -> None:
    assert run("build", write_feed(tmp_path / "feed.csv", ["", ""]), "--store", tmp_path / "store")[0] == 0


def test_photos_that_are_switched_off_are_said_once_and_are_no_failures(run: Run, tmp_path: Path) -> None:
    feed = write_feed(tmp_path / "feed.csv", [f"https://shop.example/{number}.jpg" for number in range(3)])
    store = ("--store", tmp_path / "store")
    code, printed, errors = run("build", feed, *store)
    assert (code, errors) == (0, "")
    assert printed.count("allow_http_images = true") == 1
    assert "3 photos not read" in printed
    encoded = json.loads(run("build", *store, "--json")[1])["encoded"]
    (image,) = (space for space in encoded if space["space"] == "image")
    assert image["failed"] == 0
    assert image["switched_off"] == {"allow_http_images = true": 3}
    photos = [finding for finding in examine(Settings(store=tmp_path / "store")) if finding.subject == "photos"]
    assert [finding.state for finding in photos] == ["off"]
