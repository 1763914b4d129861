"""Checks of encoders: what one is (dimensions, preprocessing, prompts, fingerprint, speed), and those of a release."""

import time
from collections.abc import Callable, Iterator

from embed.encoders import ImageEncoder, TextEncoder, choose_device, load_image_encoder, load_text_encoder
from embed.encoders.agreement import EXAMPLE_TEXTS, example_images
from embed.encoders.encoder_registry import check_options
from embed.errors import BadInput
from serve.core.settings import Settings
from serve.engine.query_encoders import Encoders
from serve.jobs.doctor import Finding
from serve.release.manifest import Manifest

MIN_SECONDS = 1.0  # that a speed is measured for


def examine_encoder(settings: Settings, name: str) -> list[Finding]:
    """Load an encoder with the options of the settings, and measure its speed on this machine.

    Raises:
        BadInput, Missing, Damaged: The encoder cannot be loaded.
    """
    device, options = choose_device(settings.device, settings.threads), settings.encoder_options(name)
    check_options(name, options)
    findings: list[Finding] = []
    refused: list[BadInput] = []
    for load in (load_image_encoder, load_text_encoder):
        try:
            encoder: ImageEncoder | TextEncoder = load(name, device, options)
        except BadInput as error:  # it may be for texts only
            refused.append(error)
            continue
        findings += _findings(encoder)
        if isinstance(encoder, ImageEncoder) and isinstance(encoder, TextEncoder):
            break
    if not findings:
        raise refused[-1]
    return findings


def check_release_encoders(settings: Settings, release: Manifest, active: Manifest | None) -> None:
    """Load the encoders of a release, except those of the active one.

    Raises:
        BadInput, Missing, Damaged, StoreUnavailable: An encoder cannot be loaded, or is not the one that made the
            space, so that the release could not be searched.
    """
    encoders = Encoders(choose_device(settings.device, settings.threads), settings.encoders)
    for name, entry in release.spaces.items():
        serving = active.spaces.get(name) if active else None
        if serving is None or serving.fingerprint != entry.fingerprint:
            encoders.encoder(release, name)


def _findings(encoder: ImageEncoder | TextEncoder) -> Iterator[Finding]:
    images, texts = isinstance(encoder, ImageEncoder), isinstance(encoder, TextEncoder)
    spaces = "photos and texts in one space" if images and texts else "photos" if images else "texts"
    yield Finding("encoder", "good", f"{encoder.name}: {spaces}")
    yield Finding("dimensions", "good", str(encoder.dim))
    for subject, detail in encoder.details.items():
        yield Finding(subject, "good", detail)
    yield Finding("fingerprint", "good", encoder.fingerprint)
    if isinstance(encoder, ImageEncoder):
        drawn = example_images(256, 256)
        prepared = [encoder.prepare(drawn[number % len(drawn)]) for number in range(encoder.batch)]
        speed = _per_second(lambda: len(encoder.encode_images(prepared)))
        yield Finding("photos", "good", f"{speed:,.0f} a second, without reading them")
    if isinstance(encoder, TextEncoder):
        lines = list(EXAMPLE_TEXTS) * 4
        speed = _per_second(lambda: len(encoder.encode_texts(lines).vectors))
        yield Finding("texts", "good", f"{speed:,.0f} a second, of about 5 words")


def _per_second(run: Callable[[], int]) -> float:
    """Return how many a function encodes in a second, after a first run."""
    run()
    done, started = 0, time.perf_counter()
    while (seconds := time.perf_counter() - started) < MIN_SECONDS:
        done += run()
    return done / seconds
