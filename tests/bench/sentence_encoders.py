"""The models of sentence-transformers in the encoders bench: each module, with random weights."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
from encoder_figures import Figures
from helpers.images import drawn
from helpers.sentence_models import FAMILIES, MULTIMODAL, encoder_vectors, library_vectors, save_sentence_model

from embed.encoders import Device, load_image_encoder, load_text_encoder
from embed.encoders.agreement import measure_agreement

PHOTOS = [np.asarray(drawn(seed, (400 + 40 * (seed % 5), 400))) for seed in range(16)]


def sentence_families(folder: Path, device: Device) -> Figures:
    """Measure queries, documents and photos beside the library's own; a control differs in one setting of the model."""
    figures = Figures(len(FAMILIES))
    for name, family in FAMILIES.items():
        model, control = (
            save_sentence_model(folder / name / kind, **{**family.model, **changes})
            for kind, changes in (("own", {}), ("control", family.control))
        )
        load, photos = load_text_encoder, []
        if family.model.get("body") in MULTIMODAL:
            load, photos = load_image_encoder, PHOTOS
        served = encoder_vectors(load(f"st:{model}", device, family.options), photos)
        with patch("embed.encoders.cpu_model._precisions", return_value=["f32"]):
            exact = encoder_vectors(load(f"st:{model}", Device("cpu", device.threads), family.options), photos)
        right, wrong = (library_vectors(each, family.options, photos) for each in (model, control))
        figures.served.append(min(map(measure_agreement, served, right)))
        figures.fp32.append(min(map(measure_agreement, exact, right)))
        figures.controls.append(min(map(measure_agreement, exact, wrong)))
        print(f"{name:<20} fp32 {figures.fp32[-1]:.6f}  served {figures.served[-1]:.5f}", flush=True)
    return figures
