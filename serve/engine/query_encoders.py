"""Encoders of queries, loaded on first use and shared by all releases of a process."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import torch

from embed.encoders import (
    NO_OPTIONS,
    Device,
    EncoderOptions,
    ImageEncoder,
    TextEncoder,
    Vectors,
    choose_device,
    load_image_encoder,
    load_text_encoder,
)
from embed.encoders.encoder_options import CONNECTION
from embed.errors import Unavailable
from index import gpu
from index.threads import limit_threads
from serve.core.errors import StoreUnavailable
from serve.core.metrics import CACHE
from serve.core.settings import Settings
from serve.release.manifest import Manifest

MAX_CACHED_TEXTS = 4096
LONG_S = 0.5  # after a query waited that long in vain for an encoder's server, others do not wait for it
PAUSE_S = 5.0  # then one query in that time asks it

_log = logging.getLogger("vetrina")


class Encoders:
    """Loads encoders on first use and keeps them. Safe in several threads."""

    def __init__(self, device: Device, options: Mapping[str, EncoderOptions]) -> None:
        """Make an empty set; `options` are those of the settings, by the encoder's name."""
        self._device, self._options = device, options
        self._loaded: dict[tuple[str, str, EncoderOptions | None], ImageEncoder | TextEncoder] = {}
        self._texts: OrderedDict[tuple[str, str], Vectors] = OrderedDict()  # by fingerprint and text; in memory only
        self._texts_lock = threading.Lock()
        self._outages: dict[str, tuple[float, Unavailable]] = {}  # by fingerprint: when to ask again, and the fault

    def encode_text(self, manifest: Manifest, space: str, text: str) -> Vectors:
        """Return the vector of a text by a space's encoder, [1, dim]; the latest ones are cached."""
        encoder = self.encoder(manifest, space)
        assert isinstance(encoder, TextEncoder)  # noqa: S101
        key = (encoder.fingerprint, text)
        with self._texts_lock:
            cached = self._texts.get(key)
            if cached is not None:
                self._texts.move_to_end(key)
        CACHE.labels("queries", "miss" if cached is None else "hit").inc()
        if cached is not None:
            return cached
        vectors = self.ask(encoder, lambda: encoder.encode_texts([text], query=True).vectors)
        with self._texts_lock:
            self._texts[key] = vectors
            while len(self._texts) > MAX_CACHED_TEXTS:
                self._texts.popitem(last=False)
        return vectors

    def ask(self, encoder: ImageEncoder | TextEncoder, encode: Callable[[], Vectors]) -> Vectors:
        """Return what `encode` makes of a query.

        Raises Unavailable where the encoder's server does not respond: at once where another query just waited for it.
        """
        started = time.monotonic()
        outage = self._outages.get(encoder.fingerprint)
        if outage is not None:
            not_before, last = outage
            if started < not_before:
                raise Unavailable(last.message, last.field)
            self._outages[encoder.fingerprint] = started + PAUSE_S, last  # meanwhile only this query asks
        try:
            vectors = encode()
        except Unavailable as fault:
            if (ended := time.monotonic()) - started > LONG_S:
                self._outages[encoder.fingerprint] = ended + PAUSE_S, fault
                if outage is None:
                    _log.warning("searching without encoder %s: %s", encoder.name, fault.message)
            raise
        self._outages.pop(encoder.fingerprint, None)
        return vectors

    def load(self, space: str, name: str, options: EncoderOptions | None) -> ImageEncoder | TextEncoder:
        """Return the encoder called `name` for a space; raises BadInput or Missing where it cannot be loaded."""
        key = (space, name, options)
        if key not in self._loaded:
            load = load_image_encoder if space == "image" else load_text_encoder
            self._loaded[key] = load(name, self._device, options)
        return self._loaded[key]

    def warm_up(self, manifest: Manifest) -> None:
        """Load the encoders of a release and run each once, so that the first request does not wait for them."""
        for space in manifest.spaces:
            encoder = self.encoder(manifest, space)
            if isinstance(encoder, TextEncoder):
                encoder.encode_texts(["any"])
            if isinstance(encoder, ImageEncoder):
                encoder.encode_images([encoder.prepare(np.zeros((8, 8, 3), np.uint8))])

    def encoder(self, manifest: Manifest, space: str) -> ImageEncoder | TextEncoder:
        """Return the encoder that made a space; raises StoreUnavailable where the encoder of that name has changed."""
        entry = manifest.spaces[space]
        encoder = self.load(space, entry.encoder, self._connected(entry.encoder, entry.options))
        if encoder.fingerprint != entry.fingerprint:
            raise StoreUnavailable(
                f"space {space} was made by encoder {entry.encoder} with fingerprint {entry.fingerprint}, but here it "
                f"has fingerprint {encoder.fingerprint}: run vetrina build again",
                f"spaces/{space}",
            )
        return encoder

    def _connected(self, name: str, options: EncoderOptions | None) -> EncoderOptions | None:
        """Return options of a release with what the settings say of where the model is now, and if its code may run."""
        here = self._options.get(name, NO_OPTIONS).given
        if options is not None and options.trust_remote_code and not here.get("trust_remote_code"):
            raise StoreUnavailable(
                f"the release was made with the code of encoder {name}, which the settings do not trust: write "
                f'trust_remote_code = true below [encoders."{name}"], or run vetrina build with another encoder',
                f"encoders.{name}.trust_remote_code",
            )
        moved = {option: here[option] for option in CONNECTION if option in here}
        return options.model_copy(update=moved) if options is not None else None


def make_encoders(settings: Settings) -> Encoders:
    """Make encoders on the device of the settings. Each search gets one thread, as requests run in parallel."""
    limit_threads(1)
    torch.set_num_threads(1)  # of the towers; encoders that run in torch set their own
    pa.set_cpu_count(1)
    gpu.set_gpu_enabled(settings.device != "cpu")
    return Encoders(choose_device(settings.device, settings.threads), settings.encoders)
