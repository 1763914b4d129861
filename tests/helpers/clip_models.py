"""Small CLIP models of each architecture family of open_clip, with random weights and a tokenizer, as folders."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SIDE = 64
GAINS = {"mlp.c_fc": 1.5, "mlp.c_proj": 6.0}  # else 2; of random weights, so that the activation counts
WORDS = ("red", "blue", "green", "shoe", "shirt", "lamp", "for", "men", "women", "with", "warm", "light", "cotton")
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
PIECES = {"context_length": 20, "vocab_size": 128, "hf_tokenizer_name": "none/such"}
SIGLIP_TEXT = {**TEXT, **PIECES, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
CANONICAL = {"tokenizer_kwargs": {"clean": "canonicalize"}}
VISION = {"image_size": SIDE, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
OPENAI = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
HALVES = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SIGLIP = {**HALVES, "interpolation": "bicubic", "resize_mode": "squash"}
MOBILE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "bilinear", "resize_mode": "shortest"}


@dataclass(frozen=True)
class Family:
    """A family: its model of timm or transformers, made smaller, and its two towers in open_clip's words."""

    vision: dict[str, Any]
    text: dict[str, Any] = field(default_factory=lambda: TEXT)
    preprocessing: dict[str, Any] = field(default_factory=lambda: OPENAI)
    more: dict[str, Any] = field(default_factory=dict)
    hf_config: Callable[[], Any] | None = None


def timm_tower(name: str, pool: str, proj: str, **smaller: Any) -> dict[str, Any]:
    """Register a smaller variant of a model of timm, and return the tower that uses it."""
    import timm

    whole = timm.models.model_entrypoint(name)

    def make(pretrained: bool = False, **arguments: Any) -> Any:
        return whole(pretrained=pretrained, **{**arguments, **smaller})

    make.__name__ = f"smaller_{name}"
    timm.models.register_model(make)
    return {"image_size": SIDE, "timm_model_name": make.__name__, "timm_pool": pool, "timm_proj": proj}


def roberta() -> Any:
    from transformers import RobertaConfig

    return RobertaConfig(
        vocab_size=128,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=40,
        pad_token_id=0,
    )


def mt5() -> Any:
    from transformers import MT5Config

    return MT5Config(vocab_size=128, d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2, pad_token_id=0)


def families() -> dict[str, Family]:
    """Return the families by name."""
    vit = {"img_size": SIDE, "embed_dim": 64, "depth": 2, "num_heads": 2}
    siglip = timm_tower("vit_base_patch16_siglip_224", "map", "none", **vit)
    custom = {"custom_text": True}
    hf_text = {**PIECES, "hf_model_name": "none/such"}
    del hf_text["vocab_size"]
    return {
        "ViT": Family(VISION, more={"quick_gelu": True}),
        "ResNet": Family({"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 16}, more={"quick_gelu": True}),
        "ConvNeXt": Family(
            timm_tower("convnext_base", "", "linear", depths=(1, 1, 2, 1), dims=(16, 32, 64, 64)), more=custom
        ),
        "SigLIP": Family(
            siglip, {**SIGLIP_TEXT, **CANONICAL}, SIGLIP, more={**custom, "embed_dim": 64, "init_logit_bias": -10}
        ),
        "SigLIP2": Family(
            timm_tower("vit_base_patch32_siglip_256", "map", "none", **vit | {"patch_size": 8}),
            {**SIGLIP_TEXT, **CANONICAL, "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}},
            SIGLIP,
            more={**custom, "embed_dim": 64, "init_logit_bias": -10},
        ),
        "MobileCLIP": Family(
            timm_tower("fastvit_mci0", "avg", "", layers=(1, 1, 1, 1), embed_dims=(16, 32, 64, 64)),
            {**TEXT, "no_causal_mask": True},
            MOBILE,
            more=custom,
        ),
        "PE": Family(
            timm_tower("vit_pe_core_tiny_patch16_384", "map", "none", **vit, attn_pool_num_heads=2, num_classes=64),
            {**TEXT, "mlp_ratio": 4.0},
            {**HALVES, "interpolation": "bilinear", "resize_mode": "squash"},
            more={**custom, "embed_dim": 64},
        ),
        "EVA": Family(
            timm_tower("eva02_base_patch16_clip_224", "token", "", **vit, ref_feat_shape=(4, 4)), more=custom
        ),
        "CoCa": Family(
            {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
            {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
            more={
                "custom_text": True,
                "multimodal_cfg": {"context_length": 76, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
            },
        ),
        "RoBERTa": Family(
            VISION, {**hf_text, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}, hf_config=roberta
        ),
        "mT5": Family(VISION, {**hf_text, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}, hf_config=mt5),
        "CLIPA": Family(
            {**VISION, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
            {
                **TEXT,
                **PIECES,
                "pool_type": "last",
                "no_causal_mask": True,
                "tokenizer_kwargs": {"strip_sep_token": True},
            },
            {
                "mean": (0.485, 0.456, 0.406),
                "std": (0.229, 0.224, 0.225),
                "interpolation": "bilinear",
                "resize_mode": "squash",
            },
        ),
    }


def save_tokenizer(folder: Path, words: Sequence[str] = WORDS) -> None:
    """Write a WordPiece tokenizer of a few words and all letters."""
    from transformers import BertTokenizerFast

    letters = [mark + letter for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys(vocabulary)))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=20).save_pretrained(folder)


def save_model(family: Family, folder: Path, seed: int = 0) -> None:
    """Write a model with random weights, large enough that its vectors tell photos and texts apart."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    text = dict(family.text)
    if family.hf_config is not None:
        family.hf_config().save_pretrained(folder)
        text["hf_model_name"] = str(folder)
    if "hf_tokenizer_name" in text:
        save_tokenizer(folder)
    config = {"embed_dim": 32, **family.more, "vision_cfg": family.vision, "text_cfg": text}
    content = {"model_cfg": config, "preprocess_cfg": family.preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    state = model.state_dict()
    for name, tensor in state.items():
        if tensor.ndim >= 2:
            gain = next((gain for part, gain in GAINS.items() if part in name), 2.0)
            state[name] = tensor * gain
    tensors = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
