"""Loads encoders by name: `bundled`, `open_clip:MODEL/WEIGHTS`, `st:MODEL`."""

from embed.encoders.device import Device, choose_device
from embed.encoders.encoder import EncodedTexts, Encoder, ImageEncoder, TextEncoder, Vectors
from embed.encoders.encoder_options import NO_OPTIONS, EncoderOptions
from embed.encoders.encoder_registry import load_image_encoder, load_text_encoder

__all__ = [
    "NO_OPTIONS",
    "Device",
    "EncodedTexts",
    "Encoder",
    "EncoderOptions",
    "ImageEncoder",
    "TextEncoder",
    "Vectors",
    "choose_device",
    "load_image_encoder",
    "load_text_encoder",
]
