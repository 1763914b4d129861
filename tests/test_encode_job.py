"""The encode job: only what is new is encoded, failures are listed and tried again, a kill leaves no trace."""

import csv
import io
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers.images import Loopback
from PIL import Image

from embed import encode_job
from embed.catalogue import Catalogue, Item, ingest
from embed.encode_job import SpaceVectors, encode_images, encode_texts
from embed.encoders import Device, EncodedTexts, ImageEncoder, TextEncoder
from embed.encoders.bundled import BundledImageEncoder
from embed.encoders.sentence_images import BoundedPhotos
from embed.images import ImageRefused, ImageSource, host_throttle
from embed.images.image_reader import ImageReader
from embed.images.read_ahead import read_ahead
from embed.text_composition import DESCRIPTION, HEADLINE, compose_texts

DIM = 8


def vector_of(content: bytes) -> Any:
    seed = int.from_bytes(blake2b(content, digest_size=4).digest(), "little")
    vector = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


class FakeImages:
    """Vectors made of the pixels' hash; as with real encoders, a vector depends a little on its batch."""

    name, dim, fingerprint, shrink_to, batch = "fake", DIM, "fa4e01", 16, 4
    details: ClassVar[dict[str, str]] = {}

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.encoded: list[int] = []  # the size of each batch
        self.alive = self.most_alive = 0
        self._lock = threading.Lock()

    def prepare(self, pixels: Any) -> Any:
        with self._lock:
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        return pixels

    def encode_images(self, prepared: Sequence[Any]) -> Any:
        time.sleep(self.pause)
        with self._lock:
            self.alive -= len(prepared)
        self.encoded.append(len(prepared))
        return np.stack([vector_of(pixels.tobytes()) for pixels in prepared]) + np.float32(len(prepared) * 1e-6)


class FakeTexts:
    """Reads 40 characters."""

    name, dim, fingerprint = "fake", DIM, "fa4e02"
    details: ClassVar[dict[str, str]] = {}

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.encoded: list[str] = []

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        time.sleep(self.pause * len(texts))
        self.encoded += texts
        vectors = np.stack([vector_of(text[:40].encode()) for text in texts]) + np.float32(len(texts) * 1e-6)
        return EncodedTexts(vectors, sum(len(text) > 40 for text in texts))


class Shop:
    """A feed of (id, title, description, images) and its images in a folder, ingested anew at every run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, folder / "store"
        self.rows: list[list[str]] = []

    def add(self, item_id: str, title: str, images: str = "", description: str = "") -> None:
        self.rows.append([item_id, title, description, images])

    def draw(self, name: str, color: int) -> None:
        Image.new("RGB", (12, 12), (color % 256, color // 256, 77)).save(self.folder / name)

    def catalogue(self) -> Catalogue:
        with (self.folder / "feed.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["item_id", "title", "description", "images"], *self.rows])
        ingest(self.folder / "feed.csv", self.store)
        return Catalogue.current(self.store)

    def images(self, encoder: FakeImages | None = None, **options: Any) -> SpaceVectors:
        source = ImageSource(self.folder)
        return encode_images(self.store, self.catalogue(), encoder or FakeImages(), source, **options)

    def texts(self, encoder: FakeTexts | None = None, **options: Any) -> SpaceVectors:
        return encode_texts(self.store, self.catalogue(), encoder or FakeTexts(), **options)

    def failures(self) -> list[dict[str, str]]:
        lines = (self.store / "vectors/image/fa4e01/failures.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """Twelve items with an image each, of which the last two share one."""
    shop = Shop(tmp_path)
    for number in range(12):
        shop.add(f"i{number}", f"Thing number {number}", f"{min(number, 10)}.png", f"It is thing {number}.")
        shop.draw(f"{number}.png", number)
    return shop


def gathered(space: SpaceVectors) -> Any:
    out = np.zeros((len(space.keys), space.dim), np.float32)
    space.gather(out)
    return out


def test_the_fakes_are_encoders() -> None:
    assert isinstance(FakeImages(), ImageEncoder)
    assert isinstance(FakeTexts(), TextEncoder)


# ---------------------------------------------------------------------------------------------------- only what is new


def test_images_are_encoded_once_and_again_only_when_they_change(shop: Shop) -> None:
    first = shop.images()
    assert (first.encoded, first.failures) == (11, [])
    assert first.owners.tolist() == list(range(12))
    vectors = gathered(first)
    np.testing.assert_array_equal(vectors[10], vectors[11])  # one image, a row for each item that has it
    np.testing.assert_allclose(vectors[3], vector_of(np.full((12, 12, 3), (3, 0, 77), np.uint8).tobytes()), atol=1e-4)

    encoder = FakeImages()
    again = shop.images(encoder)
    assert (again.encoded, encoder.encoded, encoder.most_alive) == (0, [], 0)  # not even decoded
    np.testing.assert_array_equal(gathered(again), vectors)

    shop.draw("4.png", 999)
    changed = shop.images()
    assert changed.encoded == 1
    assert np.flatnonzero((gathered(changed) != vectors).any(1)).tolist() == [4]

    shop.rows.reverse()
    assert shop.images().encoded == 0
    other = FakeImages()
    other.fingerprint = "fa4e03"
    assert shop.images(other).encoded == 11


def test_texts_are_encoded_once_and_again_only_when_they_change(shop: Shop) -> None:
    first = shop.texts()
    assert first.encoded == 24
    assert first.owners.tolist() == [row for row in range(12) for _ in range(2)]
    assert first.labels.tolist() == [HEADLINE, DESCRIPTION] * 12
    assert shop.texts().encoded == 0
    shop.rows[5][1] = "Thing with another name"
    encoder = FakeTexts()
    assert shop.texts(encoder).encoded == 1
    assert encoder.encoded == ["Thing with another name"]


def test_an_item_has_a_row_for_each_image_and_equal_texts_are_encoded_once(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    for number in range(3):
        shop.draw(f"{number}.png", number)
    shop.add("a", "Same", "0.png|1.png|2.png", "Same")
    shop.add("b", "Same")
    shop.add("c", "", "2.png")
    images, texts = shop.images(), shop.texts()
    assert list(zip(images.owners, images.labels, strict=True)) == [(0, 0), (0, 1), (0, 2), (2, 0)]
    assert images.encoded == 3
    assert list(zip(texts.owners, texts.labels, strict=True)) == [(0, HEADLINE), (0, DESCRIPTION), (1, HEADLINE)]
    assert texts.encoded == 1


def test_long_texts_are_counted(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.add("a", "A title of some length, beyond forty letters", description="short")
    shop.add("b", "short")
    assert shop.texts().truncated == 1
    assert shop.texts().truncated == 0  # of this run


def test_what_an_item_says() -> None:
    item = Item("1", "Hoodie", "Warm.", category="Tops/Hoodies", brand="Luma")
    item.attributes = {"Color": ["black"], "Size": ["S", "M", "L", "XL"], "Fit": ["loose"], "Eco": ["Yes"], "Kg": ["3"]}
    (_, headline), description = compose_texts(item)
    assert headline.startswith("black Hoodie. Tops Hoodies. ")
    assert headline.endswith("loose. Luma")
    assert not {"XL", "Yes", "3"} & set(headline.replace(",", "").split())
    assert description == (DESCRIPTION, "Warm.")
    assert compose_texts(Item("2", None, "Only prose.")) == [(DESCRIPTION, "Only prose.")]
    assert compose_texts(Item("3", None, None)) == []


# ------------------------------------------------------------------------------------------------------------ failures


def test_failed_images_are_listed_leave_the_text_and_are_tried_again(shop: Shop) -> None:
    (shop.folder / "2.png").write_bytes(b"<html>403</html>")
    (shop.folder / "5.png").unlink()
    shop.rows[7][3] = "../outside.png"
    space = shop.images()
    assert space.encoded == 8
    assert space.owners.tolist() == [row for row in range(12) if row not in (2, 5, 7)]
    listed = shop.failures()
    assert [(one["item_id"], one["image"]) for one in listed] == [
        ("i2", "2.png"),
        ("i5", "5.png"),
        ("i7", "../outside.png"),
    ]
    assert len({one["code"] for one in listed}) == 3
    assert all(one["reason"] for one in listed)
    assert shop.texts().owners.tolist() == [row for row in range(12) for _ in range(2)]

    shop.draw("2.png", 2)
    shop.draw("5.png", 5)
    shop.rows[7][3] = "7.png"
    mended = shop.images()
    assert (mended.encoded, shop.failures()) == (3, [])
    assert mended.owners.tolist() == list(range(12))


class Cdn(BaseHTTPRequestHandler):
    """Gives pictures, except those that are down at the moment; counts what it is asked for."""

    down: ClassVar[set[str]] = set()
    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        name = self.path.strip("/")
        Cdn.asked[name] += 1
        body = io.BytesIO()
        Image.new("RGB", (9, 9), (int(name), 7, 9)).save(body, "PNG")
        if name in Cdn.down and int(name) % 2:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(503 if name in Cdn.down else 200)
        self.send_header("Content-Length", str(len(body.getvalue())))
        self.end_headers()
        self.wfile.write(body.getvalue())

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_run_after_faults_of_the_network_encodes_exactly_what_was_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_throttle, "FIRST_WAIT_S", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Cdn)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    public, shop = "93.184.216.34", Shop(tmp_path)
    for number in range(30):
        shop.add(f"i{number}", "Thing", f"http://cdn.example/{number}")
    catalogue = shop.catalogue()

    def run() -> SpaceVectors:
        source = ImageSource(
            None, allow_http=True, tries=2, resolve=lambda host, port: [public], connect=Loopback(server.server_port)
        )
        return encode_images(shop.store, catalogue, FakeImages(), source, readers=8)

    Cdn.down = {"4", "7", "18", "23"}
    first = run()
    assert first.encoded == 26
    assert sorted(failure.item_id for failure in first.failures) == ["i18", "i23", "i4", "i7"]
    assert {failure.code for failure in first.failures} == {"fetch_failed"}
    assert {Cdn.asked[name] for name in Cdn.down} == {2}
    Cdn.down = {"23"}
    Cdn.asked.clear()
    again = run()
    assert (again.encoded, sorted(Cdn.asked)) == (3, ["18", "23", "4", "7"])
    assert [failure["item_id"] for failure in shop.failures()] == ["i23"]
    Cdn.down = set()
    assert run().encoded == 1
    assert run().encoded == 0
    assert run().owners.tolist() == list(range(30))
    server.shutdown()
    server.server_close()


def test_a_shop_without_any_image(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.add("a", "Words only")
    space = shop.images()
    assert (len(space.keys), space.encoded, gathered(space).shape) == (0, 0, (0, DIM))


# ----------------------------------------------------------------------------------------------------- while it runs


def test_batches_and_parts_are_cut_alike_and_progress_ends_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_job, "PART_SIZE", 8)
    shop = Shop(tmp_path)
    for number in range(19):
        shop.draw(f"{number}.png", number)
        shop.add(str(number), f"n {number}", f"{number}.png")
    encoder = FakeImages()
    told: list[tuple[int, int]] = []
    shop.images(encoder, progress=lambda *done: told.append(done))
    assert sorted(encoder.encoded) == [3, 4, 4, 4, 4]
    assert told == [(done, 19) for done in range(1, 20)]
    assert len(list((shop.store / "vectors/image/fa4e01").glob("*.arrow"))) == 3
    told.clear()
    shop.texts(progress=lambda *done: told.append(done))
    assert told[-1] == (19, 19)


def test_processes_read_what_threads_read(shop: Shop, tmp_path: Path) -> None:
    (shop.folder / "2.png").write_bytes(b"<html>403</html>")
    encoder = BundledImageEncoder(Device("cpu", 1))
    by_threads = encode_images(tmp_path / "one", shop.catalogue(), encoder, ImageSource(shop.folder))
    catalogue, source = Catalogue.current(shop.store), ImageSource(shop.folder)
    by_processes = encode_images(tmp_path / "two", catalogue, encoder, source, readers=2, processes=True)
    assert (by_processes.encoded, by_processes.failures) == (by_threads.encoded, by_threads.failures)
    assert len(by_processes.failures) == 1
    np.testing.assert_array_equal(by_processes.keys, by_threads.keys)
    np.testing.assert_array_equal(gathered(by_processes), gathered(by_threads))
    again = encode_images(tmp_path / "two", catalogue, encoder, source, processes=True)
    assert again.encoded == 0


def test_photos_of_any_shape_come_from_processes_in_order(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(24)]
    for number, name in enumerate(names):
        side = 8 + number % 3  # 8 is the side of those that come through shared memory
        Image.new("RGB", (8, side), (number, 99, 7)).save(tmp_path / name)
    (tmp_path / names[5]).unlink()
    reader = ImageReader(ImageSource(tmp_path), BoundedPhotos(), 16, frozenset().__contains__)
    by_threads, by_processes = (
        list(read_ahead(names, str, reader, readers=2, ahead=8, processes=processes)) for processes in (False, True)
    )
    assert [name for name, _ in by_processes] == names
    for (name, expected), (_, outcome) in zip(by_threads, by_processes, strict=True):
        if name == names[5]:
            assert isinstance(outcome, ImageRefused)
            assert str(outcome) == str(expected)
        else:
            assert outcome[0] == expected[0]
            np.testing.assert_array_equal(outcome[1], expected[1])


@pytest.mark.parametrize("readers", [1, 4])
def test_readers_run_only_so_far_ahead(tmp_path: Path, readers: int) -> None:
    shop = Shop(tmp_path)
    for number in range(80):
        shop.draw(f"{number}.png", number)
        shop.add(str(number), "n", f"{number}.png")
    encoder = FakeImages(pause=0.005)
    assert shop.images(encoder, readers=readers).encoded == 80
    assert encoder.most_alive <= (encode_job.READ_AHEAD_BATCHES + encode_job.MAX_IN_FLIGHT + 1) * encoder.batch + 1


def test_an_error_of_the_encoder_ends_the_job_and_keeps_what_is_whole(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_job, "PART_SIZE", 4)

    class Failing(FakeImages):
        def encode_images(self, prepared: Sequence[Any]) -> Any:
            if len(prepared) == 3:  # the last batch of 4, 4 and 3; two are encoded at once
                raise RuntimeError("the card fell off")
            return super().encode_images(prepared)

    with pytest.raises(RuntimeError, match="fell off"):
        shop.images(Failing())
    assert shop.images().encoded == 3


# ---------------------------------------------------------------------------------------------------- kill and resume

ITEMS = 90


def big_shop(folder: Path) -> Shop:
    """Shared, broken and several images, shared texts."""
    shop = Shop(folder)
    folder.mkdir()
    for number in range(ITEMS):
        shop.draw(f"{number}.png", number)
        shop.add(f"i{number}", f"Thing {number % 70}", f"{number}.png|{number // 2}.png", f"Prose {number}")
    for number in (11, 50):
        (folder / f"{number}.png").write_bytes(b"no image")
    return shop


def work(folder: Path) -> None:
    """What the killed process does; it writes `done` at the end."""
    encode_job.PART_SIZE = 8
    shop = Shop(folder)
    catalogue = Catalogue.current(shop.store)
    print("ready", flush=True)
    encode_images(shop.store, catalogue, FakeImages(pause=0.004), ImageSource(folder))
    encode_texts(shop.store, catalogue, FakeTexts(pause=0.001))
    (folder / "done").touch()


def files(shop: Shop) -> list[Path]:
    return [path for path in sorted((shop.store / "vectors").rglob("*")) if path.is_file()]


def snapshot(shop: Shop) -> dict[str, bytes]:
    return {str(path.relative_to(shop.store)): path.read_bytes() for path in files(shop)}


def test_a_job_killed_at_any_instant_resumes_to_the_very_same_bytes(tmp_path: Path) -> None:
    untouched, killed = big_shop(tmp_path / "untouched"), big_shop(tmp_path / "killed")
    for shop in (untouched, killed):
        shop.catalogue()
    run(untouched)
    expected = snapshot(untouched)
    assert Counter(Path(name).suffix for name in expected) == {".arrow": 11 + 20, ".jsonl": 1}

    probability = random.Random(0)
    seen = [0]
    while not (killed.folder / "done").exists():
        # At some instant from when it begins up to a few files further: so it gets on, and is met everywhere.
        run(killed, kill_beyond=seen[-1] + probability.randrange(-1, 10), delay=probability.uniform(0.0, 0.02))
        seen.append(len(snapshot(killed)))
    assert len(set(seen)) > 3, "the kills met the job at few points"
    assert (killed.folder / "done").exists()
    assert snapshot(killed) == expected
    assert killed.images().encoded == killed.texts().encoded == 0


def run(shop: Shop, kill_beyond: int | None = None, delay: float = 0.0) -> None:
    """The job in a process of its own; killed some time after it has written more than so many files."""
    command = [sys.executable, __file__, str(shop.folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    with process, process.stdout as output:
        assert output.readline() == b"ready\n"
        if kill_beyond is not None:
            while process.poll() is None and len(files(shop)) <= kill_beyond:
                time.sleep(0.001)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        code = process.wait()
    assert code in ((0,) if kill_beyond is None else (0, -signal.SIGKILL))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
