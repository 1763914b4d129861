"""Pictures and the servers they are read from."""

import random
from typing import Any

import httpcore
import pytest
from PIL import Image, ImageDraw


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
    """Notes which address was asked for, and goes to the local server instead; without a server nobody may ask."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port
        self.asked: list[str] = []

    def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.NetworkStream:
        self.asked.append(host)
        if self.port is None:
            pytest.fail(f"a connection to {host} was attempted")
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.port, timeout=5)
