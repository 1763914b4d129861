"""Loads a CLIP model of open_clip from its parts, and writes one as a folder that has all of them."""

import hashlib
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embed.encoders.clip_source import CONFIG_FILE, TOKENIZER_FILES, WEIGHTS_FILES, ClipSource, reason
from embed.encoders.encoder import lacks_vocabulary, make_fingerprint, weights_hash
from embed.errors import Damaged, Missing
from embed.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

_NAMES = frozenset({"hf_model_name", "hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs"})
_OF_TRAINING = frozenset(
    {"timm_model_pretrained", "hf_model_pretrained", "timm_drop", "timm_drop_path", "patch_dropout"}
)


@dataclass(frozen=True)
class ClipModel:
    """A CLIP model with what belongs to it.

    Attributes:
        module: open_clip's model in fp32 on CPU, in evaluation mode.
        tokenizer: open_clip's tokenizer.
        prepare: Scales a photo to the size of the model.
        mean: Mean of each channel, from 0 to 1.
        std: Standard deviation of each channel.
        fingerprint: Hash of all that changes a vector.
        details: What `vetrina doctor` shows of it.
    """

    module: Any
    tokenizer: Any
    prepare: Preprocessing
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    details: dict[str, str]

    @property
    def context_length(self) -> int:
        """Tokens that the model reads, including the start and end tokens."""
        return int(self.tokenizer.context_length)

    def normalized(self, pixels: "Tensor") -> "Tensor":
        """Convert levels from 0 to 255 [n, height, width, 3] to the model's input [n, 3, height, width], in fp32."""
        import torch

        scaled = pixels.permute(0, 3, 1, 2).float() / 255
        mean, std = (  # not buffers, which would be rounded with the weights
            torch.tensor(each, device=pixels.device).reshape(3, 1, 1) for each in (self.mean, self.std)
        )
        return (scaled - mean) / std

    def tokenize(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return the tokens [n, context_length] of n texts, cut or padded."""
        tokens: NDArray[np.int64] = self.tokenizer(list(texts)).numpy()
        return tokens

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a whole text, including the start and end tokens."""
        if hasattr(self.tokenizer, "encode"):  # open_clip's tokenizer; others wrap one of transformers
            return len(self.tokenizer.encode(text)) + 2
        return len(self.tokenizer.tokenizer(self.tokenizer.clean_fn(text), verbose=False)["input_ids"])


def load_clip(source: ClipSource) -> ClipModel:
    """Load a model on CPU.

    Raises:
        Missing: The hub is not there, and the source has no tokenizer or configuration of the text model.
        Damaged: The weights are not those of the architecture.
    """
    import open_clip

    module = _build(source)
    try:
        open_clip.load_checkpoint(module, str(source.weights), weights_only=True)
    except Exception as error:  # every reader of weights has its own errors
        raise Damaged(
            f"{source.weights} does not hold the weights of {source.name} ({reason(error)})", "encoder"
        ) from error
    tokenizer, origin = _load_tokenizer(source)
    size = module.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    how = source.preprocessing
    prepare = Preprocessing(height, width, how["resize_mode"], how["interpolation"], fill=how.get("fill_color", 0))
    mean, std = (tuple(map(float, how[field])) for field in ("mean", "std"))
    scaling = f"{prepare.resize_mode} to {width} x {height}, {prepare.interpolation}"
    fingerprint = make_fingerprint(
        library="open_clip",
        architecture=_architecture(source, module),
        weights=weights_hash(module.state_dict().items()),
        preprocessing=f"{scaling};fill={prepare.fill};mean={mean};std={std}",
        tokenizer=_tokenizer_hash(source, tokenizer),
        context_length=str(tokenizer.context_length),
    )
    numbers = ("/".join(f"{value:.4g}" for value in values) for values in (mean, std))
    details = {
        "weights": str(source.weights),
        "preprocessing": f"{scaling}, mean {next(numbers)}, std {next(numbers)} (from {source.origin})",
        "activation": "quick_gelu" if source.config["quick_gelu"] else "gelu",
        "tokenizer": f"{origin}, {tokenizer.context_length} tokens",
    }
    return ClipModel(module.eval(), tokenizer, prepare, mean, std, fingerprint, details)


def save_clip(model: ClipModel, source: ClipSource, folder: Path) -> None:
    """Write a model, whose weights may have changed since it was loaded, as a new folder for `local-dir:`."""
    from safetensors.torch import save_file

    folder.mkdir()
    config = {"model_cfg": source.config, "preprocess_cfg": source.preprocessing}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2), encoding="utf-8")
    # Cloned, because safetensors refuses tensors that share memory.
    tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in model.module.state_dict().items()}
    save_file(tensors, folder / WEIGHTS_FILES[0])
    if "hf_model_name" in source.config["text_cfg"]:
        model.module.text.config.save_pretrained(folder)
    if hasattr(model.tokenizer, "save_pretrained"):
        model.tokenizer.save_pretrained(folder)


def _build(source: ClipSource) -> Any:
    """Make the model without weights, as open_clip's `create_model` does."""
    import open_clip

    config = deepcopy(source.config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    custom_text = config.pop("custom_text", False) or "hf_model_name" in text
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    if "hf_model_name" in text:
        text |= {"hf_model_name": _find_text_config(source), "hf_model_pretrained": False}
    with_text = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
    kind = with_text if custom_text else open_clip.CLIP
    try:
        return kind(**config)
    except Exception as error:  # open_clip, timm and transformers each have their own
        raise Damaged(
            f"the architecture of {source.name} is not one of open_clip ({reason(error)})", "encoder"
        ) from error


def _find_text_config(source: ClipSource) -> str:
    """Return where transformers finds the configuration of the text model: the folder of the weights, or the hub."""
    from open_clip.hf_configs import arch_dict
    from transformers import AutoConfig

    name: str = source.config["text_cfg"]["hf_model_name"]
    if source.folder is not None:
        try:
            content = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        if content.get("model_type") in arch_dict:
            return str(source.folder)
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # the errors of its HTTP client
        raise Missing(
            f"the text model of {source.name} needs the configuration of {name}, which cannot be loaded "
            f"({reason(error)}): copy its config.json to {_place(source)}",
            "encoder",
        ) from error
    return name


def _load_tokenizer(source: ClipSource) -> tuple[Any, str]:
    """Load the tokenizer, and say where it is from: the folder of the weights if it is there, else the hub."""
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer

    text = source.config["text_cfg"]
    length, arguments = text.get("context_length", DEFAULT_CONTEXT_LENGTH), dict(text.get("tokenizer_kwargs") or {})
    name = text.get("hf_tokenizer_name")
    if not name:
        return SimpleTokenizer(context_length=length, **arguments), "OpenAI's"
    folder = source.folder
    own = folder is not None and any((folder / file).is_file() for file in TOKENIZER_FILES)
    place = str(folder) if own else name
    arguments["trust_remote_code"] = False
    try:
        tokenizer = HFTokenizer(place, length, tokenizer_mode=text.get("tokenizer_mode"), **arguments)
        if lacks_vocabulary(tokenizer.tokenizer):
            raise ValueError("it has no words: copy its vocabulary too, such as tokenizer.json")
        return tokenizer, place
    except Exception as error:  # transformers and its HTTP client have their own
        if own:
            raise Damaged(f"the tokenizer in {folder} cannot be loaded ({reason(error)})", "encoder") from error
        raise Missing(
            f"the tokenizer of {source.name} is {name} of the hub, which cannot be loaded ({reason(error)}): copy its "
            f"tokenizer.json and tokenizer_config.json to {_place(source)}",
            "encoder",
        ) from error


def _place(source: ClipSource) -> str:
    """Say where files that the hub does not give are to be copied."""
    return str(source.folder or f"a folder with the weights and {CONFIG_FILE}, and use open_clip:local-dir:/FOLDER")


def _architecture(source: ClipSource, module: Any) -> str:
    """Return all of the architecture that changes a vector, with open_clip's defaults filled in."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    towers = CLIPVisionCfg(**source.config["vision_cfg"]), CLIPTextCfg(**source.config["text_cfg"])
    vision, text = (
        {key: value for key, value in asdict(tower).items() if key not in _NAMES | _OF_TRAINING} for tower in towers
    )
    if "hf_model_name" in source.config["text_cfg"]:
        own = module.text.config.to_diff_dict()
        text["hf_config"] = {key: own[key] for key in own.keys() - {"_name_or_path", "transformers_version"}}
    facts = {"quick_gelu": source.config["quick_gelu"], "vision": vision, "text": text}
    return json.dumps(facts, sort_keys=True, default=str)


def _tokenizer_hash(source: ClipSource, tokenizer: Any) -> str:
    """Hash what makes tokens of a text: vocabulary and rules, independent of their files."""
    text = source.config["text_cfg"]
    facts = [text.get("tokenizer_mode") or "", json.dumps(text.get("tokenizer_kwargs") or {}, sort_keys=True)]
    own = getattr(tokenizer, "tokenizer", None)
    if own is None:
        facts.append(json.dumps(list(tokenizer.encoder)))
    else:
        special = json.dumps(own.special_tokens_map, sort_keys=True, default=str)
        facts += [own.padding_side, own.truncation_side, special, _rules(own)]
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=16).hexdigest()


def _rules(tokenizer: Any) -> str:
    """Return vocabulary and rules of a tokenizer of transformers, without the padding that its last call has left."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # written in Python
        return f"{type(tokenizer).__name__}{sorted(tokenizer.get_vocab().items())}"
    content = json.loads(backend.to_str())
    return json.dumps({**content, "padding": None, "truncation": None}, sort_keys=True)
