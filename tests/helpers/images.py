"""Images for tests, and a stand-in for the network."""

import random
from collections.abc import Callable
from typing import Any

import httpcore
import pytest
from PIL import Image, ImageDraw

from embed.images.decode import ImageRefused


def drawn(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    probability = random.Random(seed)
    image = Image.new("RGB", size, tuple(probability.choices(range(256), k=3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        left, top = probability.randrange(size[0]), probability.randrange(size[1])
        box = (left, top, left + probability.randrange(9, 150), top + probability.randrange(9, 150))
        probability.choice((draw.ellipse, draw.rectangle))(box, fill=tuple(probability.choices(range(256), k=3)))
    return image


class Loopback(httpcore.NetworkBackend):
    """Records the requested addresses and connects to a local server; without one, a connection fails the test."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port
        self.asked: list[str] = []

    def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        self.asked.append(host)
        if self.port is None:
            pytest.fail(f"a connection to {host} was attempted")
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.port, timeout=5)


def refusal(call: Callable[[], object]) -> str:
    """Return the code of the refusal that a call raises."""
    with pytest.raises(ImageRefused) as caught:
        call()
    assert caught.value.field
    assert caught.value.message
    return caught.value.code
