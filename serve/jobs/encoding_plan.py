"""The plan of an encoding: which spaces the next build encodes anew, why, and what that costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from embed.catalogue import Catalogue
from embed.encode_job import iterate_texts
from embed.encoders import ImageEncoder, TextEncoder
from embed.encoders.encoder_options import CONNECTION, EncoderOptions
from embed.vector_store import VectorStore, as_keys
from serve.core.settings import Settings
from serve.jobs.collect_behaviour import fitting_models
from serve.jobs.encode import SpaceEncoders, measure_image_rate, measure_text_rate
from serve.release.manifest import Manifest, SpaceEntry

FILES_CHANGED = "its files, or the code that runs them, have changed"


@dataclass(frozen=True)
class SpacePlan:
    """What the next build encodes for a space.

    Attributes:
        space: The space.
        before: Encoder of the active release; None without one.
        encoder: Encoder of the settings.
        reason: Why the space is encoded anew; empty if it is not, and then nothing else is measured.
        contents: Photos or texts that have no vector of this encoder yet. Photos count by their references.
        per_second: Measured on a sample of them; None if none could be read.
        seconds: Estimate for all.
        bytes: What the new vectors take in the vector store; the index of the release takes about as much again.
    """

    space: str
    before: str | None
    encoder: str
    reason: str
    contents: int = 0
    per_second: float | None = None
    seconds: float | None = None
    bytes: int = 0


@dataclass(frozen=True)
class EncodingPlan:
    """The plan of each space, and what is to be done after the build."""

    spaces: Sequence[SpacePlan]
    notes: Sequence[str]

    @property
    def replaces(self) -> bool:
        """Whether a space of the active release gets another encoder."""
        return any(space.reason and space.before is not None for space in self.spaces)

    @property
    def interrupted(self) -> Sequence[str]:
        """The spaces of the active release whose encoder is gone, as its files were changed in place."""
        return [space.space for space in self.spaces if space.reason == FILES_CHANGED]


def plan_encoding(
    settings: Settings, catalogue: Catalogue, encoders: SpaceEncoders, active: Manifest | None
) -> EncodingPlan:
    """Plan the encoding of a catalogue, beside the active release; encodes a sample where a space is new."""
    entries = active.spaces if active else {}
    texts = _plan(settings, "text", encoders.text, entries.get("text"), lambda store: _new_texts(catalogue, store))
    images = _plan(settings, "image", encoders.image, entries.get("image"), lambda store: _new_photos(catalogue, store))
    images = _priced(images, encoders.image, lambda: measure_image_rate(settings, catalogue, encoders.image))
    texts = _priced(texts, encoders.text, lambda: measure_text_rate(catalogue, encoders.text))
    kept = {name: fingerprint for name, fingerprint in encoders.fingerprints.items() if name in entries}
    return EncodingPlan([images, texts], fitting_models(settings.store, kept).notes if kept else [])


def _plan(
    settings: Settings,
    space: str,
    encoder: ImageEncoder | TextEncoder,
    entry: SpaceEntry | None,
    count_new: Callable[[VectorStore | None], int],
) -> SpacePlan:
    before = entry.encoder if entry else None
    reason = _reason(encoder, settings.encoder_options(encoder.name), entry)
    if not reason:
        return SpacePlan(space, before, encoder.name, reason)
    folder = settings.store / "vectors" / space / encoder.fingerprint
    # Opening a store makes its folder.
    store = VectorStore(settings.store, space, encoder.fingerprint, encoder.dim) if folder.is_dir() else None
    return SpacePlan(space, before, encoder.name, reason, count_new(store))


def _priced(plan: SpacePlan, encoder: ImageEncoder | TextEncoder, measure: Callable[[], float | None]) -> SpacePlan:
    """Return a plan with what its contents cost."""
    if not plan.contents:
        return plan
    rate = measure()
    return SpacePlan(
        plan.space,
        plan.before,
        plan.encoder,
        plan.reason,
        plan.contents,
        None if rate is None else round(rate, 1),
        None if rate is None else round(plan.contents / rate, 1),
        plan.contents * encoder.dim * np.dtype(np.float32).itemsize,
    )


def _reason(encoder: ImageEncoder | TextEncoder, options: EncoderOptions, entry: SpaceEntry | None) -> str:
    """Say why an encoder makes another space than that of a release; empty if it makes the same."""
    if entry is None:
        return "the active release has no such space"
    if encoder.fingerprint == entry.fingerprint:
        return ""
    if encoder.name != entry.encoder:
        return "another encoder"
    if entry.options is None:
        return "the active release was made by an earlier version, which encoded otherwise"
    before, now = entry.options.given, options.given
    changed = [name for name in EncoderOptions.model_fields if before.get(name) != now.get(name)]
    changed = [name for name in changed if name not in CONNECTION]
    return f"other options: {', '.join(changed)}" if changed else FILES_CHANGED


def _new_photos(catalogue: Catalogue, store: VectorStore | None) -> int:
    photos: int = pc.count_distinct(pc.list_flatten(catalogue.column("images"))).as_py()
    return max(0, photos - (len(store) if store else 0))


def _new_texts(catalogue: Catalogue, store: VectorStore | None) -> int:
    keys = as_keys({key for _, _, key, _ in iterate_texts(catalogue)})
    return len(keys) - (int(store.contains(keys).sum()) if store else 0)
