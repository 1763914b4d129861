"""The encoders by the names that settings use. A new one is one line here; its module is imported when it is used."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from embed.encoders.device import Device
from embed.encoders.encoder import ImageEncoder, TextEncoder
from embed.errors import BadInput


@dataclass(frozen=True)
class EncoderEntry:
    """An encoder that the settings can name.

    Attributes:
        usage: Its name in the settings. What follows a colon is passed to the class, before the device.
        module: The module of the class.
        class_name: The class.
        library: The package that it needs beyond the required ones.
        example: What to write into `vetrina.toml`.
        takes: What it encodes: `image`, `text`, or both.
    """

    usage: str
    module: str
    class_name: str
    library: str = ""
    example: str = ""
    takes: tuple[str, ...] = ("image", "text")

    @property
    def kind(self) -> str:
        """The part of the name before the colon."""
        return self.usage.partition(":")[0]


ENCODERS: list[EncoderEntry] = []


def register(entry: EncoderEntry) -> None:
    """Add an encoder."""
    ENCODERS.append(entry)


register(EncoderEntry("bundled", "embed.encoders.bundled", "BundledImageEncoder", takes=("image",)))
register(EncoderEntry("bundled", "embed.encoders.bundled", "BundledTextEncoder", takes=("text",)))
register(
    EncoderEntry(
        "st:MODEL",
        "embed.encoders.sentence",
        "SentenceEncoder",
        "sentence_transformers",
        'text_encoder = "st:sentence-transformers/all-MiniLM-L6-v2", or a local folder',
        takes=("text",),
    )
)
register(
    EncoderEntry(
        "open_clip:MODEL/WEIGHTS",
        "embed.encoders.clip",
        "ClipEncoder",
        "open_clip",
        'image_encoder = "open_clip:ViT-B-32/laion2b_s34b_b79k", or a local weights file',
    )
)


def load_image_encoder(name: str, device: Device) -> ImageEncoder:
    """Load an image encoder by its name in the settings; raises BadInput for an unknown name."""
    encoder: ImageEncoder = _load(name, device, "image")
    return encoder


def load_text_encoder(name: str, device: Device) -> TextEncoder:
    """Load a text encoder by its name in the settings; raises BadInput for an unknown name."""
    encoder: TextEncoder = _load(name, device, "text")
    return encoder


def _load(name: str, device: Device, takes: str) -> Any:
    kind, _, spec = name.partition(":")
    entries = [entry for entry in ENCODERS if takes in entry.takes]
    entry = next((entry for entry in entries if entry.kind == kind and (":" in entry.usage or name == kind)), None)
    if entry is None:
        usages = ", ".join(entry.usage for entry in entries)
        raise BadInput(f"{takes} encoder {name!r} is unknown: use {usages}", f"{takes}_encoder")
    encoder = getattr(import_module(entry.module), entry.class_name)
    return encoder(spec, device) if ":" in entry.usage else encoder(device)
