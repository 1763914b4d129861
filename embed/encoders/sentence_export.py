"""Makes torch modules of sentence-transformers models that can be exported: from tokens, or pixels, to vectors."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import Image

from embed.encoders.agreement import EXAMPLE_TEXTS, example_images
from embed.encoders.sentence_model import Role, SentenceModel
from embed.encoders.sentence_tokens import TOKENS

if TYPE_CHECKING:
    import torch
    from torch.nn import Module


class NotExportable(RuntimeError):
    """A model runs only in the library."""


def make_text_module(
    model: SentenceModel, role: Role, limit: int | None
) -> "tuple[Module, dict[str, Any], dict[str, dict[int, Any]]]":
    """Make a module from tokens [n, width] to vectors [n, dim], with example inputs and the axes that vary.

    Raises:
        NotExportable: The model takes more than tokens.
    """
    import torch

    features = model.preprocess(EXAMPLE_TEXTS, role)
    prompt_length = features.pop("prompt_length", None)
    if prompt_length and any(not getattr(module, "include_prompt", True) for module in model.library.modules()):
        raise NotExportable("its pooling leaves the prompt out")
    tokens = {name: value for name, value in features.items() if isinstance(value, torch.Tensor)}
    if not {"input_ids"} <= tokens.keys() <= set(TOKENS):
        raise NotExportable(f"it takes {', '.join(tokens)}")
    fixed = {name: value for name, value in features.items() if name not in tokens}

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.library

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor | None = None,
            token_type_ids: torch.Tensor | None = None,
        ) -> torch.Tensor:
            given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
            inputs = {name: values for name, values in given.items() if values is not None}
            vectors: torch.Tensor = self.model({**inputs, **fixed}, task=role.task)["sentence_embedding"]
            return vectors[:, : model.dim]  # only `encode` truncates

    axes = {0: torch.export.Dim("n"), 1: torch.export.Dim("width", max=limit)}
    return Sentence(), {name: tokens[name] for name in TOKENS if name in tokens}, dict.fromkeys(tokens, axes)


def make_image_module(model: SentenceModel, normalized: "Callable[[torch.Tensor], torch.Tensor]") -> "Module":
    """Make a module from prepared photos [n, height, width, 3], uint8, to vectors [n, dim].

    Args:
        model: A multimodal model.
        normalized: Converts prepared photos to the pixels [n, 3, height, width] that the model takes.
    """
    import torch

    role = model.document
    fixed = model.preprocess([Image.fromarray(example_images(64, 64)[0])], role)
    del fixed["pixel_values"]

    class Photo(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.library

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            pixels = normalized(batch).to(self.model.dtype)
            vectors: torch.Tensor = self.model({**fixed, "pixel_values": pixels}, task=role.task)["sentence_embedding"]
            return vectors[:, : model.dim]

    return Photo()
