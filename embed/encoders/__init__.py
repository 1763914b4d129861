"""Encoders by name: `bundled`, `open_clip:MODEL/WEIGHTS`, `st:MODEL`; each is loaded when it is asked for."""

from embed.encoders.device import Device, choose_device
from embed.encoders.encoder import EncodedTexts, Encoder, ImageEncoder, TextEncoder, Vectors
from embed.errors import BadInput

__all__ = [
    "Device",
    "EncodedTexts",
    "Encoder",
    "ImageEncoder",
    "TextEncoder",
    "Vectors",
    "choose_device",
    "load_image_encoder",
    "load_text_encoder",
]


def load_image_encoder(name: str, device: Device) -> ImageEncoder:
    """The image encoder that `name` names: `bundled` or `open_clip:MODEL/WEIGHTS`."""
    kind, _, spec = name.partition(":")
    if name == "bundled":
        from embed.encoders.bundled import BundledImageEncoder

        return BundledImageEncoder(device)
    if kind == "open_clip":
        from embed.encoders.clip import ClipEncoder

        return ClipEncoder(spec, device)
    raise BadInput(f"image encoder {name!r} is not known: use bundled or open_clip:MODEL/WEIGHTS", "image_encoder")


def load_text_encoder(name: str, device: Device) -> TextEncoder:
    """The text encoder that `name` names: `bundled`, `st:MODEL` or `open_clip:MODEL/WEIGHTS`."""
    kind, _, spec = name.partition(":")
    if name == "bundled":
        from embed.encoders.bundled import BundledTextEncoder

        return BundledTextEncoder(device)
    if kind == "st":
        from embed.encoders.sentence import SentenceEncoder

        return SentenceEncoder(spec, device)
    if kind == "open_clip":
        from embed.encoders.clip import ClipEncoder

        return ClipEncoder(spec, device)
    raise BadInput(
        f"text encoder {name!r} is not known: use bundled, st:MODEL or open_clip:MODEL/WEIGHTS", "text_encoder"
    )
