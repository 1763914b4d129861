"""Builds and releases: nothing lost, nothing mixed, nothing done twice."""

import csv
import fcntl
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from embed.encoders.bundled import BundledTextEncoder
from embed.errors import BadInput
from serve.core.errors import EXPECTED, BadRequest, NotFound, StoreUnavailable
from serve.core.settings import Settings
from serve.engine.query import Query
from serve.engine.query_encoders import make_encoders
from serve.jobs.build import BuildReport, build, encode_catalogue, ingest_feed
from serve.jobs.doctor import examine
from serve.live.replica import open_engine
from serve.live.runtime import ServiceRuntime
from serve.release.release import Release
from serve.release.repository import (
    current_name,
    list_manifests,
    make_current,
    open_current,
    open_release,
    release_before,
    release_names,
    releases_folder,
)

TITLES = ["red canvas shoe", "blue wool hat", "green tea pot", "yellow rain coat", "black leather bag", "white mug"]


def write_feed(path: Path, titles: list[str], header: str = "item_id,title", ids: str = "i") -> Path:
    path.write_text("\n".join([header, *(f"{ids}{number},{title}" for number, title in enumerate(titles))]) + "\n")
    return path


@pytest.fixture
def small(tmp_path: Path) -> Settings:
    """A store of six items without images, built once."""
    settings = Settings(store=tmp_path / "store", keep_releases=2)
    build(settings, write_feed(tmp_path / "feed.csv", TITLES))
    return settings


def rebuild(settings: Settings, titles: list[str], force: bool = False) -> BuildReport:
    return build(settings, write_feed(settings.store.parent / "feed.csv", titles), force=force)


def ids_found(engine_of: Settings, text: str) -> list[str]:
    engine = open_engine(engine_of)
    return [engine.snapshot.item_id(found.item_index) for found in engine.search(Query(k=3, text=text))]


def test_a_release_holds_what_a_request_needs(built: Settings) -> None:
    release = open_current(built.store)
    assert release.manifest.items == len(release.catalogue) == len(release.ids) == 72
    assert set(release.spaces) == {"image", "text"}
    for number in range(72):
        assert release.ids.item_index(release.ids.item_id(number)) == number
        assert release.catalogue.item(number).item_id == release.ids.item_id(number)
    for name, space in release.manifest.spaces.items():
        assert space.recall10 >= 0.95
        assert space.rejected == space.failed == 0
        assert release.spaces[name].space.fingerprint == space.fingerprint
    on_disk = {str(path.relative_to(releases_folder(built.store) / release.name)) for path in files_of(release)}
    assert on_disk == {*release.manifest.files, "manifest.json"}


def test_only_what_changed_is_done(small: Settings) -> None:
    first = current_name(small.store)
    again = rebuild(small, TITLES)
    assert not again.published
    assert [space.encoded for space in again.spaces] == [0]
    assert current_name(small.store) == first
    changed = rebuild(small, ["red canvas sandal", *TITLES[1:]])
    assert changed.published
    assert [space.encoded for space in changed.spaces] == [1]
    assert changed.manifest.parent == first
    assert current_name(small.store) == changed.manifest.release != first
    assert open_current(small.store).catalogue.item(0).title == "red canvas sandal"
    back = rebuild(small, TITLES)
    assert back.published
    assert [space.encoded for space in back.spaces] == [0]
    sharper = build(small.model_copy(update={"recall_target": 0.99}))
    assert sharper.published
    assert [entry.recall_target for entry in sharper.manifest.spaces.values()] == [0.99]


def test_old_releases_are_pruned_but_never_the_current(small: Settings) -> None:
    (releases_folder(small.store) / "20010101T000000000-half").mkdir()  # what a kill while pruning left
    names = [current_name(small.store)]
    for number in range(3):
        names.append(rebuild(small, [*TITLES, f"extra {number}"]).manifest.release)
    assert release_names(small.store) == names[:-3:-1]
    assert [manifest.release for manifest in list_manifests(small.store)] == names[:-3:-1]
    make_current(small.store, str(names[-2]))
    rebuild(Settings(store=small.store, keep_releases=1), TITLES)
    assert len(release_names(small.store)) == 1


def test_going_back_is_one_step_and_only_to_a_release(small: Settings) -> None:
    first = current_name(small.store)
    second = rebuild(small, [*TITLES, "grey scarf"]).manifest.release
    assert first is not None
    make_current(small.store, first)
    assert open_current(small.store).name == first
    for name in ("nope", "current", "..", "", f"{second}/", ".draft-x"):
        with pytest.raises(NotFound, match="no release"):
            open_release(small.store, name)
    make_current(small.store, second)
    assert release_before(small.store) == first
    make_current(small.store, first)
    with pytest.raises(NotFound, match=f"no release before {first}"):
        release_before(small.store)


def test_current_moves_without_a_gap(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def watched(source: Path, target: Path) -> Path:
        seen.add(current_name(small.store))
        os.replace(source, target)
        seen.add(current_name(small.store))
        return target

    before = current_name(small.store)
    monkeypatch.setattr(Path, "replace", watched)
    after = rebuild(small, [*TITLES, "grey scarf"]).manifest.release
    assert seen == {before, after}


def files_of(release: Release) -> Iterator[Path]:
    folder = release.catalogue.file.parent
    return (path for path in folder.rglob("*") if path.is_file())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.Random(len(data)).randrange(len(data))] ^= 1 << len(data) % 8
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES: list[Callable[[Path], None]] = [flip, cut, Path.unlink]


def test_every_damaged_file_is_refused_by_name_and_the_old_release_goes_on(built: Settings, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(built.store / "releases", store / "releases", symlinks=True)
    settings = Settings(store=store)
    old = open_current(store)
    live = ServiceRuntime(settings)
    live.refresh()
    fresh = releases_folder(store) / "copy"
    for path in sorted(files_of(old)):
        name = str(path.relative_to(old.catalogue.file.parent))
        for damage in DAMAGES:
            shutil.copytree(releases_folder(store) / old.name, fresh / old.name)
            damage(fresh / old.name / name)
            with pytest.raises(EXPECTED) as refused:
                Release(fresh / old.name)
            assert name in str(refused.value), damage
            shutil.rmtree(fresh)
    # The same through the service: a newer release that is damaged never takes over.
    newer = releases_folder(store) / "20990101T000000000-00000000"
    shutil.copytree(releases_folder(store) / old.name, newer)
    make_current(store, newer.name)
    live.refresh()
    assert live.engine.snapshot.release.name == old.name
    assert live.engine.search(Query(k=1, text="red shoe"))
    wrong = [finding for finding in examine(settings) if finding.state == "wrong"]
    assert any(newer.name in finding.detail and "manifest.json" in finding.detail for finding in wrong)


def test_files_of_another_build_are_refused_with_both_sides_named(small: Settings) -> None:
    other_ids = write_feed(small.store.parent / "feed.csv", TITLES[::-1], ids="j")
    first, second = current_name(small.store), build(small, other_ids).manifest.release
    folder = releases_folder(small.store)
    names = {str(path.relative_to(folder / second)) for path in files_of(open_current(small.store))}
    theirs = {
        name for name in names if (folder / second / name).read_bytes() != (folder / str(first) / name).read_bytes()
    }
    assert {"ids.arrow", "ids_order.npy", "items.arrow", "manifest.json"} < theirs
    for name in theirs - {"manifest.json"}:
        ours = (folder / second / name).read_bytes()
        shutil.copyfile(folder / str(first) / name, folder / second / name)
        with pytest.raises(StoreUnavailable, match="instead of") as refused:
            Release(folder / second)
        assert refused.value.field == name
        assert second in refused.value.message
        (folder / second / name).write_bytes(ours)
    shutil.copyfile(folder / str(first) / "manifest.json", folder / second / "manifest.json")
    with pytest.raises(StoreUnavailable, match=f"{first}, not {second}"):
        Release(folder / second)


def test_a_build_mends_a_damaged_release(small: Settings) -> None:
    damaged = open_current(small.store)
    flip(damaged.catalogue.file)
    with pytest.raises(StoreUnavailable, match=r"items\.arrow"):
        open_current(small.store)
    report = build(small)
    assert report.published
    assert [space.encoded for space in report.spaces] == [0]
    assert open_current(small.store).catalogue.item(0).title == TITLES[0]


def test_a_store_copied_without_its_links_is_explained(small: Settings, tmp_path: Path) -> None:
    shutil.copytree(small.store, tmp_path / "copy")
    with pytest.raises(StoreUnavailable, match="symbolic link"):
        open_current(tmp_path / "copy")
    live = ServiceRuntime(Settings(store=tmp_path / "copy"))
    live.refresh()
    with pytest.raises(StoreUnavailable, match="symbolic link"):
        _ = live.engine


def test_what_a_kill_left_half_written_is_ignored_and_cleaned(small: Settings) -> None:
    folder = releases_folder(small.store)
    (folder / ".draft-dead" / "spaces").mkdir(parents=True)
    (folder / ".draft-dead" / "manifest.json").write_text("{")
    (folder / ".current-dead").symlink_to("nowhere")
    current = open_current(small.store).name
    assert release_names(small.store) == [current]
    rebuild(small, [*TITLES, "grey scarf"])
    assert not list(folder.glob(".*"))


def test_another_fingerprint_is_refused_with_both_sides_named(small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    release = open_current(small.store)
    ours = BundledTextEncoder.fingerprint
    monkeypatch.setattr(BundledTextEncoder, "fingerprint", "0123456789abcdef")
    encoders = make_encoders(small)
    monkeypatch.setattr("embed.encoders.bundled.CpuModel", lambda *_, **__: SimpleNamespace(details=""))
    with pytest.raises(StoreUnavailable, match=f"{ours}.*0123456789abcdef"):
        encoders.warm_up(release.manifest)


def test_one_job_at_a_time(small: Settings) -> None:
    with (small.store / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match="another job"):
            build(small)
        with pytest.raises(StoreUnavailable, match="another job"):
            encode_catalogue(small)
        with pytest.raises(StoreUnavailable, match="another job"):
            ingest_feed(small, small.store.parent / "feed.csv")
    assert not build(small).published


def test_a_feed_that_would_gut_the_shop_leaves_it_as_it_was(small: Settings) -> None:
    before = current_name(small.store)
    for titles in ([], TITLES[:2]):
        with pytest.raises(BadInput, match="less than half"):
            rebuild(small, titles)
        assert current_name(small.store) == before
        assert len(open_current(small.store).catalogue) == 6
    assert rebuild(small, TITLES[:2], force=True).manifest.items == 2
    with pytest.raises(BadRequest, match="nothing to release"):
        rebuild(small, [], force=True)
    assert len(open_current(small.store).catalogue) == 2


def test_images_that_are_gone_do_not_take_the_space_out_of_the_shop(shop: Path, tmp_path: Path) -> None:
    feed = tmp_path / "feed.csv"
    with (shop / "catalog.csv").open() as file:
        feed.write_text("".join(line for number, line in enumerate(file) if number <= 4))
    settings = Settings(store=tmp_path / "store", image_root=tmp_path)
    (tmp_path / "images").symlink_to(shop / "images")
    with pytest.raises(BadRequest, match="photos could not be read"):  # links out of the image root are refused
        build(settings, write_feed(tmp_path / "other.csv", ["images/x.jpg"], "item_id,image"))
    (tmp_path / "images").unlink()
    shutil.copytree(shop / "images", tmp_path / "images")
    first = build(settings, feed).manifest
    assert set(first.spaces) == {"image", "text"}
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(BadRequest, match="photos could not be read"):
        build(settings, feed)
    assert current_name(settings.store) == first.release
    assert set(build(settings, feed, force=True).manifest.spaces) == {"text"}


def test_a_kill_at_any_instant_loses_nothing(shop: Path, tmp_path: Path) -> None:
    """SIGKILL at ten instants of real builds, then one to the end: the same bytes as a build left alone."""
    feed = tmp_path / "feed.csv"
    with (shop / "catalog.csv").open() as file:
        feed.write_text("".join(line for number, line in enumerate(file) if number <= 12))

    processes = multiprocessing.get_context("forkserver")  # in which everything is imported already
    processes.set_forkserver_preload(["serve.jobs.build", "pytest"])

    def start(store: Path) -> BaseProcess:
        process = processes.Process(target=build, args=(Settings(store=store, image_root=shop), feed))
        process.start()
        return process

    alone = tmp_path / "alone"
    process = start(alone)
    began = wait_for(alone / ".build.lock", process)
    assert ended(process) == 0
    took = time.monotonic() - began

    def torture(seed: int) -> int:
        """Kill a build at five instants, then let one end; how many were killed indeed."""
        store = tmp_path / f"killed-{seed}"
        probability = random.Random(seed)
        kills = 0
        for instant in sorted(probability.uniform(0, took) for _ in range(5)):
            (store / ".build.lock").unlink(missing_ok=True)
            process = start(store)
            wait_for(store / ".build.lock", process)
            time.sleep(instant)
            process.kill()
            kills += ended(process) == -signal.SIGKILL
            if current_name(store):  # whatever happened, what serves is whole
                assert open_current(store).manifest.items == 12
        assert ended(start(store)) == 0
        return kills

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(torture, (1, 2))) > 5
    for seed in (1, 2):
        store = tmp_path / f"killed-{seed}"
        assert vectors_of(store) == vectors_of(alone)
        assert not list(releases_folder(store).glob(".*"))
        assert ids_found(Settings(store=store), "red shoe") == ids_found(Settings(store=alone), "red shoe")


def ended(process: BaseProcess) -> int | None:
    process.join()
    return process.exitcode


def wait_for(path: Path, process: BaseProcess) -> float:
    while not path.exists() and process.is_alive():
        time.sleep(0.005)
    return time.monotonic()


def vectors_of(store: Path) -> dict[str, bytes]:
    """The vector store's parts and the release's index files, by name."""
    release = open_current(store).catalogue.file.parent
    indexes = {str(path.relative_to(release)): path.read_bytes() for path in (release / "spaces").rglob("*.*")}
    parts = {str(path.relative_to(store)): path.read_bytes() for path in (store / "vectors").rglob("*.arrow")}
    return parts | {name: data for name, data in indexes.items() if not name.endswith(".json")}  # timings are in it


def test_the_feed_of_the_drawn_shop_is_kept_whole(shop: Path, built: Settings) -> None:
    with (shop / "catalog.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    catalogue = open_current(built.store).catalogue
    assert [item.as_py() for item in catalogue.ids()] == [row["item_id"] for row in rows]


def test_a_release_that_is_let_go_takes_no_memory_and_still_answers(built: Settings) -> None:
    release = open_current(built.store)
    if not Path("/proc/self/smaps").exists():
        pytest.skip("only Linux tells what is mapped")

    def mapped() -> int:
        total, inside = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if line[0] in "0123456789abcdef":
                inside = f"{built.store.resolve()}/releases/" in line
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1])
        return total

    rows = {name: index.item_rows(5)[1].copy() for name, index in release.spaces.items()}
    item = release.catalogue.item(5)
    assert mapped() > 0
    release.let_go()
    assert mapped() == 0
    for name, expected in rows.items():
        np.testing.assert_array_equal(release.spaces[name].item_rows(5)[1], expected)
    assert release.catalogue.item(5) == item
