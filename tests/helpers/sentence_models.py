"""Small sentence-transformers models with random weights, as folders: each kind of module, and what is like it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from embed.encoders import NO_OPTIONS, EncoderOptions
from embed.encoders.agreement import EXAMPLE_TEXTS

DIM = 32
LIMIT = 48  # tokens
TEXTS = list(EXAMPLE_TEXTS)
MULTIMODAL = ("clip", "siglip2")
PROMPTS = {"query": "a query about: ", "document": "the text of an item: "}


@dataclass(frozen=True)
class SentenceFamily:
    """A model, another one that differs in one setting alone and must be told apart, and options that both get."""

    model: dict[str, Any] = field(default_factory=dict)  # arguments of `save_sentence_model`
    control: dict[str, Any] = field(default_factory=lambda: {"pooling": "max"})
    options: EncoderOptions = NO_OPTIONS


FAMILIES = {
    "mean": SentenceFamily(),
    "cls": SentenceFamily({"pooling": "cls"}),
    "max": SentenceFamily({"pooling": "max"}, {"pooling": "mean"}),
    "weighted": SentenceFamily({"pooling": "weightedmean"}, {"pooling": "mean"}),
    "several": SentenceFamily(
        {"pooling": ("cls", "max", "mean", "weightedmean")},
        {"pooling": ("cls", "max", "mean_sqrt_len_tokens", "weightedmean")},
    ),
    "last": SentenceFamily({"body": "qwen3", "pooling": "lasttoken", "prompts": PROMPTS}, {"prompts": {}}),
    "positions": SentenceFamily({"body": "roberta"}),
    "dense": SentenceFamily(
        {"dense": True, "normalize": True, "prompts": PROMPTS, "truncate_dim": 12}, {"prompts": {}}
    ),
    "without prompt": SentenceFamily({"prompts": PROMPTS, "include_prompt": False}, {"include_prompt": True}),
    "truncated": SentenceFamily({"truncate_dim": 12}),
    "given prompts": SentenceFamily(
        {}, {"pooling": "max"}, EncoderOptions(query_prompt="query: ", document_prompt="passage: ", truncate_dim=20)
    ),
    "static": SentenceFamily({"body": "static", "prompts": PROMPTS}, {"prompts": {}}),
    "model2vec": SentenceFamily({"body": "model2vec"}, {"prompts": PROMPTS}),
    "router": SentenceFamily({"body": "router", "prompts": PROMPTS}),
    "clip": SentenceFamily({"body": "clip"}, {"image_mean": (0.1, 0.2, 0.3)}),
    "patches": SentenceFamily({"body": "siglip2"}, {"image_mean": (0.1, 0.2, 0.3)}),  # photos keep their shape
}  # fmt: skip


def save_sentence_model(folder: Path, **changes: Any) -> Path:
    """Save a model.

    Args:
        folder: Where to.
        changes: body, pooling, include_prompt, dense, normalize, prompts, truncate_dim, image_mean.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

    how = {"body": "bert", "pooling": "mean", "include_prompt": True, **changes}
    body = str(how["body"])
    torch.manual_seed(0)
    if body == "model2vec":
        return _save_model2vec(folder, how.get("prompts", {}))
    static = StaticEmbedding(make_tokenizer()._tokenizer, embedding_dim=DIM)
    if body in ("static", *MULTIMODAL):
        multimodal = body in MULTIMODAL
        modules: list[Any] = [Transformer(str(_save_multimodal(folder / "source", how))) if multimodal else static]
    else:
        words = Transformer(str(_save_transformer(folder / "source", "bert" if body == "router" else body)))
        pooling = Pooling(DIM, how["pooling"], include_prompt=how["include_prompt"])
        modules = [words, pooling]
        if body == "router":
            modules = [Router.for_query_document([static], modules)]
    if how.get("dense"):
        modules.append(Dense(DIM, 20, activation_function=torch.nn.Tanh()))
    if how.get("normalize"):
        modules.append(Normalize())
    model = SentenceTransformer(
        modules=modules, device="cpu", prompts=how.get("prompts"), truncate_dim=how.get("truncate_dim")
    )
    model.save(str(folder / "model"))
    return folder / "model"


def library_of(folder: Path, **arguments: Any) -> Any:
    """Load a model in the library."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", **arguments)
    if getattr(getattr(model[0], "config", None), "model_type", "") == "siglip2":  # as it was trained
        model[0].processing_kwargs = {"text": {"padding": "max_length"}}
    return model


def library_vectors(folder: Path, options: EncoderOptions, photos: list[Any]) -> list[Any]:
    """Return what the library makes of queries, documents and photos, each [n, dim]."""
    library = library_of(folder, truncate_dim=options.truncate_dim)
    vectors = [
        library.encode_query(TEXTS, prompt=options.query_prompt),
        library.encode_document(TEXTS, prompt=options.document_prompt),
    ]
    return [*vectors, library.encode_document([Image.fromarray(photo) for photo in photos])] if photos else vectors


def encoder_vectors(encoder: Any, photos: list[Any]) -> list[Any]:
    """Return what an encoder makes of the same."""
    vectors = [encoder.encode_texts(TEXTS, query=query).vectors for query in (True, False)]
    return [*vectors, encoder.encode_images([encoder.prepare(photo) for photo in photos])] if photos else vectors


def make_tokenizer(left: bool = False) -> Any:
    """Make a tokenizer whose tokens are the words of the examples, and letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = " ".join([*EXAMPLE_TEXTS, *PROMPTS.values(), "query passage"]).lower().replace(",", "").split()
    letters = [mark + chr(code) for mark in ("", "##") for code in range(33, 127)]
    vocabulary = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *words])
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(vocabulary)}, **{"unk_token": "[UNK]"}))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **special,
        model_max_length=LIMIT,
        padding_side="left" if left else "right",
    )


def _save_transformer(folder: Path, body: str) -> Path:
    import transformers

    tokenizer = make_tokenizer(left=body == "qwen3")
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": DIM, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": LIMIT + (4 if body == "roberta" else 0),
        "initializer_range": 0.3, "pad_token_id": 0,
    }  # fmt: skip
    if body == "qwen3":
        shape |= {"num_key_value_heads": 1, "head_dim": 16}
    kind = {"bert": "Bert", "roberta": "Roberta", "qwen3": "Qwen3"}[body]
    config = getattr(transformers, f"{kind}Config")(**shape)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _save_multimodal(folder: Path, how: dict[str, Any]) -> Path:
    import torch
    import transformers

    tokenizer = make_tokenizer()
    shape = {"hidden_size": DIM, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    mean = {"image_mean": how["image_mean"]} if "image_mean" in how else {}
    special = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**shape, **special, "vocab_size": len(tokenizer)}
    if how["body"] == "clip":
        kind, size = "CLIP", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        text |= {"max_position_embeddings": LIMIT}
        config: Any = transformers.CLIPConfig(
            text_config=text, vision_config={**shape, "image_size": 32, "patch_size": 8}, projection_dim=DIM
        )
    else:
        kind, size = "Siglip2", {"max_num_patches": 16}
        text |= {"max_position_embeddings": 64, "projection_size": DIM}  # its processor has 64 tokens
        config = transformers.Siglip2Config(text_config=text, vision_config={**shape, "num_patches": 16})
    model = getattr(transformers, f"{kind}Model")(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.mul_(3)
    model.save_pretrained(folder)
    images = getattr(transformers, f"{kind}ImageProcessor")(**size, **mean)
    getattr(transformers, f"{kind}Processor")(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def _save_model2vec(folder: Path, prompts: dict[str, str]) -> Path:
    """Save a folder as model2vec writes it."""
    import torch
    from safetensors.torch import save_file

    tokenizer = make_tokenizer()
    folder = folder / "model"
    folder.mkdir(parents=True)
    save_file({"embeddings": torch.randn(len(tokenizer), DIM)}, folder / "model.safetensors")
    tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    modules = [
        {"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": DIM, "normalize": True}
    sentence = {"prompts": prompts}
    for name, content in (("modules", modules), ("config", config), ("config_sentence_transformers", sentence)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder
