"""The encoders by the names that settings use. A new one is one line here; its module is imported when it is used."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from embed.encoders.device import Device
from embed.encoders.encoder import ImageEncoder, TextEncoder
from embed.encoders.encoder_options import NO_OPTIONS, EncoderOptions
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
        options: The options that it takes. If there are any, the class gets them after the device.
    """

    usage: str
    module: str
    class_name: str
    library: str = ""
    example: str = ""
    takes: tuple[str, ...] = ("image", "text")
    options: tuple[str, ...] = ()

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
_SENTENCE_OPTIONS = ("query_prompt", "document_prompt", "truncate_dim", "trust_remote_code")
register(
    EncoderEntry(
        "st:MODEL",
        "embed.encoders.sentence",
        "SentenceEncoder",
        "sentence_transformers",
        'text_encoder = "st:sentence-transformers/all-MiniLM-L6-v2", or a local folder',
        takes=("text",),
        options=_SENTENCE_OPTIONS,
    )
)
register(
    EncoderEntry(
        "st:MODEL",
        "embed.encoders.sentence_images",
        "MultimodalSentenceEncoder",
        "sentence_transformers",
        'image_encoder = "st:sentence-transformers/clip-ViT-B-32", or another multimodal model',
        takes=("image",),
        options=_SENTENCE_OPTIONS,
    )
)
register(
    EncoderEntry(
        "open_clip:MODEL/WEIGHTS",
        "embed.encoders.clip",
        "ClipEncoder",
        "open_clip",
        'image_encoder = "open_clip:ViT-B-32/laion2b_s34b_b79k", open_clip:MODEL//file, open_clip:local-dir:/folder or '
        "open_clip:hf-hub:ORG/NAME@revision",
        options=("preprocess", "mean", "std", "resize_mode", "interpolation", "activation"),
    )
)
_SERVER_OPTIONS = ("base_url", "model", "api_key_variable", "query_prompt", "document_prompt", "truncate_dim", "images")
_SERVER = "embed.encoders.server_encoders"
register(EncoderEntry("http:NAME", _SERVER, "ServerTextEncoder", takes=("text",), options=_SERVER_OPTIONS))
register(EncoderEntry("http:NAME", _SERVER, "ServerImageEncoder", takes=("image",), options=_SERVER_OPTIONS))


def load_image_encoder(name: str, device: Device, options: EncoderOptions | None = NO_OPTIONS) -> ImageEncoder:
    """Load an image encoder.

    Args:
        name: Its name in the settings.
        device: Where it runs.
        options: Its options; None encodes as version 0.1 did, for releases of that version.

    Raises:
        BadInput: The name is unknown, or the encoder does not take an option.
        Missing, Damaged: The model is not there, or is not complete.
    """
    encoder: ImageEncoder = _load(name, device, options, "image")
    return encoder


def load_text_encoder(name: str, device: Device, options: EncoderOptions | None = NO_OPTIONS) -> TextEncoder:
    """Load a text encoder; arguments and errors are those of `load_image_encoder`."""
    encoder: TextEncoder = _load(name, device, options, "text")
    return encoder


def check_options(name: str, options: EncoderOptions) -> None:
    """Raise BadInput for an encoder whose kind is unknown, or does not take one of the options."""
    kind = name.partition(":")[0]
    entries = [entry for entry in ENCODERS if entry.kind == kind]
    if not entries:
        usages = dict.fromkeys(entry.usage for entry in ENCODERS)
        raise BadInput(f"encoder {name!r} is unknown: use {', '.join(usages)}", "encoders")
    taken = {option for entry in entries for option in entry.options}
    for option in sorted(options.given.keys() - taken):
        uses = f"it takes {', '.join(sorted(taken))}" if taken else "it takes none"
        raise BadInput(f"encoder {name} does not take the option {option}: {uses}", f"encoders.{name}.{option}")


def _load(name: str, device: Device, options: EncoderOptions | None, takes: str) -> Any:
    kind, _, spec = name.partition(":")
    entries = [entry for entry in ENCODERS if takes in entry.takes]
    entry = next((entry for entry in entries if entry.kind == kind and (":" in entry.usage or name == kind)), None)
    if entry is None:
        usages = ", ".join(entry.usage for entry in entries)
        raise BadInput(f"{takes} encoder {name!r} is unknown: use {usages}", f"{takes}_encoder")
    if options is not None:
        check_options(name, options)
    encoder = getattr(import_module(entry.module), entry.class_name)
    arguments = (*((spec,) if ":" in entry.usage else ()), device, *((options,) if entry.options else ()))
    return encoder(*arguments)
