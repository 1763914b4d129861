"""Whether vectors are those of the encoder's own library, and of nothing else.

Each model has random weights: small ones of every architecture family, and some of open_clip's own names at their full
size. 16 photos and 16 texts are encoded by the library's own pipeline and by Vetrina, in fp32 and in the precision that
is served. The figures are the smallest cosines after the mean of the 16 is subtracted, because vectors of a random
network are all alike. A control encodes with another mean, std, resize mode or activation than the weights were made
with, and is caught if its cosine is below 0.9999.

`silent_fallbacks` counts, over all of open_clip's names, weights files that are taken without a question, and prepared
or run otherwise than all tags of the name say.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from encoder_figures import Figures
from report import report

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers.clip_models import HALVES, MOBILE, OPENAI, Family, families, save_model
from helpers.images import drawn
from sentence_encoders import sentence_families

from embed.encoders import load_image_encoder
from embed.encoders.agreement import EXAMPLE_TEXTS, MIN_EXACT, measure_agreement
from embed.encoders.clip_source import PREPROCESSING, find_clip
from embed.encoders.cpu_model import Disagreement
from embed.encoders.device import choose_device
from embed.encoders.encoder_options import NO_OPTIONS, EncoderOptions
from embed.errors import BadInput

PHOTOS = [drawn(seed, (400 + 40 * (seed % 5), 400)) for seed in range(16)]
TEXTS = list(EXAMPLE_TEXTS)
FULL_SIZE = {  # of at most 80 million parameters, with tokenizers that come with open_clip
    "ViT-S-32": OPENAI,
    "MobileCLIP2-S0": MOBILE,
    "PE-Core-T-16-384": {**HALVES, "interpolation": "bilinear", "resize_mode": "squash"},
    "ViTamin-S": OPENAI,
}
DEVICE = choose_device("auto", int(os.environ.get("VETRINA_THREADS", "0")))


def main() -> None:
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VETRINA_CACHE"] = f"{folder}/cache"
        measured = [open_clip_figures(Path(folder)), sentence_families(Path(folder), DEVICE)]
        fallbacks = silent_fallbacks(Path(folder))
    controls = [cosine for figures in measured for cosine in figures.controls]
    report(
        "encoders",
        {
            "families": sum(figures.families for figures in measured),
            "worst_cosine_fp32": round(min(min(figures.fp32) for figures in measured), 6),
            "worst_cosine_served": round(min(min(figures.served) for figures in measured), 6),
            "controls": len(controls),
            "controls_caught": sum(cosine < MIN_EXACT for cosine in controls),
            "closest_control": round(max(controls), 6),
            "silent_fallbacks": fallbacks,
        },
        seed=0,
        packages=("open_clip_torch", "sentence-transformers", "timm", "transformers", "torch", "openvino"),
    )


def open_clip_figures(folder: Path) -> Figures:
    """Measure open_clip's families, and names at their full size."""
    figures = Figures()
    for name, family in {**families(), **full_size()}.items():
        save_model(family, folder / name)
        reference = library_vectors(folder / name)
        with patch("embed.encoders.clip.CpuModel", side_effect=Disagreement("not exported")):
            figures.fp32.append(min(agreements(folder / name, reference)))
            figures.controls += [
                min(agreements(folder / name, reference, **options)) for options in contradictions(family)
            ]
        figures.served.append(min(agreements(folder / name, reference)))
        print(f"{name:<20} fp32 {figures.fp32[-1]:.6f}  served {figures.served[-1]:.5f}", flush=True)
    figures.families = len({*families(), "ViTamin"})
    return figures


def full_size() -> dict[str, Family]:
    """Return models of open_clip's list as they are there."""
    import open_clip

    found = {}
    for name, preprocessing in FULL_SIZE.items():
        config = open_clip.get_model_config(name)
        vision, text = config.pop("vision_cfg"), config.pop("text_cfg")
        found[name] = Family(vision, text, preprocessing, config)
    return found


def contradictions(family: Family) -> Iterator[dict[str, Any]]:
    """Yield options that contradict what a model was made with."""
    how = family.preprocessing
    yield {"mean": (0.3, 0.4, 0.6)}
    yield {"std": (0.4, 0.2, 0.3)}
    yield {"resize_mode": "squash" if how["resize_mode"] == "shortest" else "shortest"}
    if "act_kwargs" not in family.text:  # which QuickGELU does not take
        yield {"activation": "gelu" if family.more.get("quick_gelu") else "quick_gelu"}


def library_vectors(folder: Path) -> list[Any]:
    """Encode photos and texts as open_clip does, in fp32 on CPU."""
    import open_clip

    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([transform(photo) for photo in PHOTOS])).numpy()
        return [images, model.encode_text(open_clip.get_tokenizer(name)(TEXTS)).numpy()]


def agreements(folder: Path, reference: Iterable[Any], **options: Any) -> list[float]:
    """Measure how closely Vetrina's vectors of photos and of texts agree with those of the library."""
    encoder: Any = load_image_encoder(f"open_clip:local-dir:{folder}", DEVICE, EncoderOptions(**options))
    images = encoder.encode_images([encoder.prepare(np.asarray(photo)) for photo in PHOTOS])
    rows = images, encoder.encode_texts(TEXTS).vectors
    return [measure_agreement(*pair) for pair in zip(rows, reference, strict=True)]


def silent_fallbacks(folder: Path) -> int:
    """Count the names of open_clip whose weights file is used otherwise than all of their tags say, without a word."""
    import open_clip

    (weights := folder / "file.safetensors").touch()
    count = 0
    for model in open_clip.list_models():
        tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
        try:
            source = find_clip(f"{model}/{weights}", NO_OPTIONS)
        except BadInput:
            continue
        used = {**source.preprocessing, "quick_gelu": source.config["quick_gelu"]}
        stated = [
            {**{key: tag[key] for key in PREPROCESSING}, "quick_gelu": tag.get("quick_gelu", False)} for tag in tags
        ]
        same_size = source.config["vision_cfg"] == open_clip.get_model_config(model)["vision_cfg"]
        count += not (stated and same_size and all(used == each for each in stated))
    return count


if __name__ == "__main__":
    main()
