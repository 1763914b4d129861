"""Encoders that run on an embedding server (`http:NAME`); see `embed.encoders.embedding_server` for what is sent.

The weights of a server are not known here. A reply with another model's name or other dimensions is refused, but new
weights under the same name and dimensions go unnoticed: the encoder must then get another name, such as `http:shop-2`,
which is part of its fingerprint. How texts are cut and photos scaled is the server's matter too, and texts that it cuts
are not counted.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
from PIL import Image

from embed.encoders.agreement import example_images
from embed.encoders.device import Device
from embed.encoders.embedding_server import EmbeddingServer
from embed.encoders.encoder import EncodedTexts, Prepared, Vectors, encode_in_batches, make_fingerprint
from embed.encoders.encoder_options import EncoderOptions
from embed.errors import BadInput, Unavailable
from embed.images.preprocessing import Pixels

BATCH = 32  # inputs of a request: what Text Embeddings Inference takes by default, and infinity takes of images
MAX_REQUEST_CHARACTERS = 4 << 20
STREAMS = 4  # requests at once
MAX_SIDE = 768  # pixels of a photo that is sent; models read 224 to 512
IMAGE_FORM = f"JPEG of at most {MAX_SIDE} pixels a side, quality 95"
MAX_SAME = 0.999  # cosine of an image to its data URL as a text, above which a server did not look at the image


class ServerTextEncoder:
    """Encodes texts on a server; prompts are put before them here."""

    def __init__(self, name: str, device: Device, options: EncoderOptions) -> None:
        if not name or name.startswith("/"):
            raise BadInput(
                f"encoder http:{name} has no name: write http:NAME, and the server's address as base_url below "
                '[encoders."http:NAME"] in vetrina.toml',
                "encoder",
            )
        self.name = f"http:{name}"
        model = options.model or name
        self._prompts = {True: options.query_prompt or "", False: options.document_prompt or ""}
        self._server = EmbeddingServer(self.name, model, options)
        self.dim = self._server.dim
        self.fingerprint = make_fingerprint(
            encoder=self.name,
            model=model,
            dimensions=f"{self.dim} {options.truncate_dim}",
            prompts=repr(self._prompts),
        )
        self.details: Mapping[str, str] = {
            "runs in": f"the server at {options.base_url}, as {model}",
            "query prompt": repr(self._prompts[True]),
            "document prompt": repr(self._prompts[False]),
            "truncation": "by the server; cut texts are not counted",
            "weights": "known to the server alone: give the encoder another name when they change",
        }

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        """Encode n texts as unit rows [n, dim]; the server cuts long ones, which are not counted."""
        return EncodedTexts(self._encode([self._prompts[query] + text for text in texts]), 0)

    def _encode(self, inputs: Sequence[str], modality: str = "") -> Vectors:
        """Encode inputs in requests of bounded size."""
        is_awaited = len(inputs) == 1  # a query, or a live change

        def run(batch: Sequence[str]) -> Vectors:
            return np.concatenate([self._server.embed(part, is_awaited, modality) for part in _split(batch)])

        return encode_in_batches(inputs, BATCH, self.dim, run, STREAMS)


def make_data_url(pixels: Pixels) -> str:
    """Make the data URL of an image [h, w, 3], in `IMAGE_FORM`."""
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC)  # never enlarges
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


class ServerImageEncoder(ServerTextEncoder):
    """Encodes photos and texts in one space, on a server that takes images as data URLs."""

    batch = BATCH * STREAMS
    shrink_to = MAX_SIDE
    prepare = staticmethod(make_data_url)

    def __init__(self, name: str, device: Device, options: EncoderOptions) -> None:
        if not options.images:
            raise BadInput(
                f"encoder http:{name} is for texts: if its server takes images as data URLs, write images = true below "
                f'[encoders."http:{name}"] in vetrina.toml',
                f"encoders.http:{name}.images",
            )
        super().__init__(name, device, options)
        self._check_that_images_are_seen()
        self.fingerprint = make_fingerprint(texts=self.fingerprint, images=IMAGE_FORM)
        self.details = {**self.details, "preprocessing": f"sent as {IMAGE_FORM}; the rest is the server's"}

    def encode_images(self, prepared: Sequence[Prepared]) -> Vectors:
        """Encode n data URLs of images as unit rows [n, dim]."""
        return self._encode(prepared, "image")

    def _check_that_images_are_seen(self) -> None:
        """Raise Unavailable for a server that refuses images, or reads their data URLs as words."""
        url = self.prepare(example_images(64, 64)[0])
        advice, field = f"without images = true, {self.name} is for texts", f"encoders.{self.name}.images"
        try:
            (image,) = self._encode([url], "image")
        except BadInput as error:
            raise Unavailable(f"{error.message}: {advice}", field) from error
        with suppress(BadInput):  # as it may be too long for a text
            if image @ self._encode([url])[0] > MAX_SAME:
                message = f'the embedding server of {self.name} does not know "modality": "image" and read it as words'
                raise Unavailable(f"{message}: {advice}", field)


def _split(inputs: Sequence[str]) -> Iterator[list[str]]:
    """Cut inputs into parts of at most MAX_REQUEST_CHARACTERS, or of one input that is longer."""
    part: list[str] = []
    length = 0
    for each in inputs:
        if part and length + len(each) > MAX_REQUEST_CHARACTERS:
            yield part
            part, length = [], 0
        part.append(each)
        length += len(each)
    if part:
        yield part
