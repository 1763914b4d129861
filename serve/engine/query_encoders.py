"""Encoders of queries, loaded on first use and shared by all releases of a process."""

import threading
from collections import OrderedDict

import pyarrow as pa
import torch
from PIL import Image

from embed.encoders import (
    Device,
    ImageEncoder,
    TextEncoder,
    Vectors,
    choose_device,
    load_image_encoder,
    load_text_encoder,
)
from index import gpu
from index.threads import limit_threads
from serve.core.errors import StoreUnavailable
from serve.core.metrics import CACHE
from serve.core.settings import Settings
from serve.release.manifest import Manifest

KEPT_QUERIES = 4096


class Encoders:
    """Encoders of queries, loaded when first needed and kept; shared by all releases a process has open."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._loaded: dict[tuple[str, str], ImageEncoder | TextEncoder] = {}
        self._kept: OrderedDict[tuple[str, str], Vectors] = OrderedDict()  # by fingerprint and words; in memory only
        self._keeping = threading.Lock()

    def texts(self, manifest: Manifest, space: str, text: str) -> Vectors:
        """Words as the text encoder of a space has them, [1, dim]; those asked for last are kept."""
        encoder = self.of(manifest, space)
        assert isinstance(encoder, TextEncoder)  # noqa: S101
        key = (encoder.fingerprint, text)
        with self._keeping:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        CACHE.labels("queries", "miss" if kept is None else "hit").inc()
        if kept is None:
            kept = encoder.encode_texts([text]).vectors
            with self._keeping:
                self._kept[key] = kept
                while len(self._kept) > KEPT_QUERIES:
                    self._kept.popitem(last=False)
        return kept

    def load(self, space: str, name: str) -> ImageEncoder | TextEncoder:
        """The encoder that `name` names for a space; raises BadInput or Missing where it cannot be had."""
        if (space, name) not in self._loaded:
            load = load_image_encoder if space == "image" else load_text_encoder
            self._loaded[space, name] = load(name, self._device)
        return self._loaded[space, name]

    def warm_up(self, manifest: Manifest) -> None:
        """Load the encoders of a release and use each once, so that its first question does not wait for them."""
        for space in manifest.spaces:
            encoder = self.of(manifest, space)
            if isinstance(encoder, TextEncoder):
                encoder.encode_texts(["any"])
            if isinstance(encoder, ImageEncoder):
                encoder.encode_images([encoder.prepare(Image.new("RGB", (8, 8)))])

    def of(self, manifest: Manifest, space: str) -> ImageEncoder | TextEncoder:
        """The encoder that made a space; Broken where the one of that name here is not the same one."""
        entry = manifest.spaces[space]
        encoder = self.load(space, entry.encoder)
        if encoder.fingerprint != entry.fingerprint:
            raise StoreUnavailable(
                f"space {space} was made by {entry.encoder} {entry.fingerprint}, but {entry.encoder} here is "
                f"{encoder.fingerprint}: build again",
                f"spaces/{space}",
            )
        return encoder


def make_encoders(settings: Settings) -> Encoders:
    """Encoders on the device of the settings. Searches get one thread each: requests run beside each other."""
    limit_threads(1)
    torch.set_num_threads(1)  # of the towers; encoders that run in torch set their own
    pa.set_cpu_count(1)
    gpu.allow(settings.device != "cpu")
    return Encoders(choose_device(settings.device, settings.threads))
