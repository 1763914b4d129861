"""Loads a CLIP model as version 0.1 did, with its fingerprint, for releases of that version."""

from pathlib import Path

from embed.encoders.clip_model import ClipModel
from embed.encoders.clip_source import check_weights, reason
from embed.encoders.encoder import make_fingerprint, weights_hash
from embed.errors import Damaged, Missing
from embed.images.preprocessing import Preprocessing


def load_clip_v01(spec: str) -> ClipModel:
    """Load `MODEL/TAG` or `MODEL//file`: a file is prepared as OpenAI's weights, and the activation is the model's.

    Raises:
        BadInput: The model or the tag is unknown.
        Missing, Damaged: The weights are not there, or not those of the model.
    """
    import open_clip

    name, _, weights = spec.partition("/")
    check_weights(name, weights)
    try:
        module, _, transform = open_clip.create_model_and_transforms(name, pretrained=weights, weights_only=True)
    except Exception as error:  # every reader of weights has its own errors
        fault = Damaged if Path(weights).is_file() else Missing
        raise fault(f"the weights of open_clip:{spec} cannot be loaded ({reason(error)})", "encoder") from error
    tokenizer = open_clip.get_tokenizer(name)
    how, normalize = module.visual.preprocess_cfg, transform.transforms[-1]
    height, width = how["size"] if isinstance(how["size"], tuple) else (how["size"], how["size"])
    fingerprint = make_fingerprint(
        model=name,
        weights=weights_hash(module.state_dict().items()),
        preprocessing=f"{transform};tokens={int(tokenizer.context_length)}",
    )
    prepare = Preprocessing(height, width, how["resize_mode"], how["interpolation"], fill=how["fill_color"])
    details = {"preprocessing": "as version 0.1"}
    return ClipModel(module.eval(), tokenizer, prepare, normalize.mean, normalize.std, fingerprint, details)
