"""Messy images: which are read, and as which pixels, and which are rejected."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image as Pillow
from PIL import ImageSequence

from embed.catalogue import Catalogue
from embed.images import decode_image
from helpers.messy.workspace import IMAGES, Row, Shop, flat_memory, vetrina
from helpers.service import good, refused
from serve.release.repository import open_current


def difference(one: Pillow.Image, other: Pillow.Image) -> float:
    assert (one.size, one.mode) == (other.size, other.mode)
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


def same(image: Pillow.Image, path: Path) -> None:
    assert image.size == (96, 64)
    assert difference(image, Pillow.open(IMAGES / "reference_ok.png").convert("RGB")) < 5


def gray(image: Pillow.Image, path: Path) -> None:
    assert difference(image, Pillow.open(path).convert("RGB")) < 1


def ramp(image: Pillow.Image, path: Path) -> None:
    grays = np.asarray(image)
    assert np.ptp(grays, axis=2).max() == 0
    assert (np.diff(grays[0, :, 0].astype(int)) >= 0).all()
    assert grays.min() == 0
    assert grays.max() == 255
    assert 120 <= len(np.unique(grays)) <= 128


def first_frame(image: Pillow.Image, path: Path) -> None:
    frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(Pillow.open(path))]
    assert len(frames) == 3
    assert [difference(image, frame) < 5 for frame in frames] == [True, False, False]
    red, green, blue = np.asarray(image).mean(axis=(0, 1))
    assert red > green + 20
    assert red > blue + 20


@dataclass(frozen=True)
class Image(Row):
    """A photo that looks as `pixels` checks, or is `refused` with this code.

    HTTP: as the photo of a search, multipart and base64, and as the image of an item that is put. Command line: in a
    feed through `ingest`, `encode` and `build`, and `search --image`. A refused one's item keeps its text.
    """

    pixels: Callable[[Pillow.Image, Path], None] | None = None
    refused: str = ""

    def http(self, shop: Shop, path: Path) -> None:
        data = path.read_bytes()
        search = shop.service.client.post
        item = {"item_id": "put", "title": "a put picture", "image": path.name}
        with flat_memory():
            (put,) = good(shop.put(orjson.dumps({"items": [item]})))["items"]
            answers = [
                search("/v1/search", files={"image": (path.name, data)}, data={"k": "100"}),
                search("/v1/search", json={"image": base64.b64encode(data).decode(), "k": 100}),
            ]
        assert put["status"] == "created"
        assert shop.get("put")["title"] == "a put picture"
        assert "put" in shop.service.ids(text="picture", spaces=["text"], k=100)
        if self.refused:
            for answer in answers:
                error = refused(answer)
                assert (error["field"], error["code"]) == ("image", self.refused)
                assert put["warnings"] == [f"image: refused {path.name!r}: {error['message']}"]
            assert "put" not in shop.service.ids(like=["reference_ok.png"], spaces=["image"], k=100)
        else:
            assert put["warnings"] == []
            found, again = (good(answer)["items"] for answer in answers)
            assert found == again
            self._finds_itself(path, found, "put")
        shop.delete(["put"])

    def command(self, shop: Shop, path: Path) -> None:
        failed = Path(shop.encoded["image"]["failures"]).read_text().splitlines()
        failures = {line["item_id"]: line for line in map(json.loads, failed)}
        assert shop.encoded["image"]["failed"] == len(failures)
        images = sum(path.is_file() for path in IMAGES.iterdir())
        assert shop.encoded["image"]["rows"] == images - len(failures)  # those after a refused one, too
        with flat_memory():
            done = vetrina("search", "--image", path, "-k", "100", "--store", shop.store, "--json")
        if self.refused:
            assert (failures[path.name]["image"], failures[path.name]["code"]) == (path.name, self.refused)
            assert failures[path.name]["reason"].replace(" ", "") in done.error_response().replace(" ", "")
        else:
            assert path.name not in failures
            self._finds_itself(path, done.json["items"])
        catalogue = Catalogue.current(shop.store)
        row = catalogue.ids().to_pylist().index(path.name)
        assert catalogue.item(row).title == f"picture {path.name}"
        texts = open_current(shop.store).spaces["text"]
        assert len(texts.item_rows(row)[0]) == 1

    def _finds_itself(self, path: Path, found: list[dict[str, Any]], *also: str) -> None:
        """The same file, however it went in, has the same vector; and what all of them decode it to is right."""
        scores = {item["item_id"]: item["score"] for item in found}
        assert all(scores[item_id] == pytest.approx(1, abs=1e-3) for item_id in (path.name, *also))
        assert all(np.isfinite(score) for score in scores.values())
        assert self.pixels is not None
        self.pixels(decode_image(path.read_bytes()), path)
