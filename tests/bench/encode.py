"""Encode throughput: the whole job (read, hash, decode, encode, store) compared with the model's bare forward pass.

Images are the 714 photos of the Magento Luma shop if the data folder exists, else those of the demo shop; texts are
those of the same shop. The forward pass is the same encoder on prepared inputs, in the batches of the job. Job and
forward pass run in turns, and the ratio is that of the medians. The encoder and eager PyTorch are compared on the same
images in the same way (`image_over_eager`), and the encoder and sentence-transformers' `encode` on the same texts
(`text_over_st`). CLIP is ViT-B/32 with random weights: the speed does not depend on them.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from report import earlier, report
from rich.console import Console
from rich.progress import track

from embed.catalogue import Catalogue, FeedMapping, ingest
from embed.encode_job import encode_images, encode_texts
from embed.encoders import ImageEncoder, choose_device, load_image_encoder, load_text_encoder
from embed.encoders.bundled import TEXT_MAX_TOKENS, _image_module, _text_folder
from embed.images import ImageSource, decode_image
from embed.text_composition import compose_texts
from serve.demo.shop import make_shop

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "magento-luma"
ROUNDS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        catalogue, root = shop(Path(folder))
        device = choose_device()
        source = ImageSource(root)
        images, texts = load_image_encoder("bundled", device), load_text_encoder("bundled", device)
        clip = load_image_encoder(f"open_clip:ViT-B-32/{random_clip(Path(folder))}", device)
        references = sorted({image for batch in catalogue.batches() for item in batch for image in item.images})

        def prepared_for(encoder: ImageEncoder) -> list[np.ndarray]:
            return [
                encoder.prepare(decode_image(source.read(each), shrink_to=encoder.shrink_to)) for each in references
            ]

        prepared, for_clip = prepared_for(images), prepared_for(clip)
        lines = sorted({text for batch in catalogue.batches() for item in batch for _, text in compose_texts(item)})
        fresh = iter(range(1000))

        def image_job(encoder: ImageEncoder) -> int:
            store = Path(folder) / f"store{next(fresh)}"
            return encode_images(store, catalogue, encoder, source, readers=device.threads).encoded

        def text_job() -> int:
            return encode_texts(Path(folder) / f"store{next(fresh)}", catalogue, texts).encoded

        figures = {
            "images": len(references),
            "texts": len(lines),
            **side_by_side("image", lambda: image_job(images), lambda: len(images.encode_images(prepared))),
            **side_by_side("clip", lambda: image_job(clip), lambda: len(clip.encode_images(for_clip))),
            **side_by_side("text", text_job, lambda: len(texts.encode_texts(lines).vectors)),
            **compare("image", "eager", lambda: images.encode_images(prepared[:128]), eager(prepared[:128]), 128),
            **compare("text", "st", lambda: texts.encode_texts(lines), library(lines), len(lines)),
        }
    other_figures = {name: value for name, value in earlier("encode").items() if "clip_retrieval" in name}
    report("encode", figures | other_figures, seed=0, packages=("torch", "openvino", "sentence-transformers", "pillow"))


def shop(folder: Path) -> tuple[Catalogue, Path]:
    """Ingest Magento Luma, else the demo shop; return the catalogue and the root folder of its images."""
    store = folder / "catalogue"
    if DATA.is_dir():
        mapping = FeedMapping.load(Path(__file__).parents[1] / "data" / "luma.toml")
        ingest(DATA / "catalog.csv", store, mapping=mapping)
        return Catalogue.current(store), DATA
    make_shop(folder / "shop", items=720, users=10)
    ingest(folder / "shop" / "catalog.csv", store)
    return Catalogue.current(store), folder / "shop"


def side_by_side(name: str, job: Callable[[], int], forward: Callable[[], int]) -> dict[str, float]:
    """Time job and forward pass in turns; return the median rates a second and their ratio."""
    rates: dict[str, list[float]] = {"job": [], "forward": []}
    for _ in track(range(ROUNDS), name, console=Console(stderr=True)):
        for which, run in (("forward", forward), ("job", job)):
            started = time.perf_counter()
            count = run()
            rates[which].append(count / (time.perf_counter() - started))
    job_rate, forward_rate = (statistics.median(rates[which]) for which in ("job", "forward"))
    return {
        f"{name}_job_per_s": round(job_rate, 1),
        f"{name}_forward_per_s": round(forward_rate, 1),
        f"{name}_job_over_forward": round(job_rate / forward_rate, 3),
    }


def compare(
    name: str, other: str, ours: Callable[[], object], theirs: Callable[[], object], count: int
) -> dict[str, float]:
    """Time our side and another library in turns; return images or texts a second of both, and their ratio."""
    seconds: dict[str, list[float]] = {name: [], other: []}
    for _ in track(range(ROUNDS + 1), f"{name} and {other}", console=Console(stderr=True)):
        for which, run in ((name, ours), (other, theirs)):
            started = time.perf_counter()
            run()
            seconds[which].append(time.perf_counter() - started)
    our_rate, their_rate = (count / statistics.median(seconds[which][1:]) for which in (name, other))
    return {
        f"{name}_per_s": round(our_rate, 1),
        f"{other}_per_s": round(their_rate, 1),
        f"{name}_over_{other}": round(our_rate / their_rate, 2),
    }


def eager(prepared: list[np.ndarray]) -> Callable[[], object]:
    """Return a function that runs the bundled image model in eager PyTorch, in batches of 16."""
    module, batches = _image_module().eval(), np.array_split(np.stack(prepared), len(prepared) // 16)

    def run() -> None:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        with torch.inference_mode():
            for batch in batches:
                module(torch.from_numpy(batch))

    return run


def library(lines: list[str]) -> Callable[[], object]:
    """Return a function that runs the bundled text model in sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(_text_folder()), device="cpu")
    model.max_seq_length = TEXT_MAX_TOKENS
    return lambda: model.encode(lines, batch_size=32, show_progress_bar=False)


def random_clip(folder: Path) -> Path:
    """Write random weights of ViT-B/32, with the configuration that says how they are used; return their path."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-32")}))
    path = folder / "clip.safetensors"
    save_file(open_clip.create_model("ViT-B-32").state_dict(), path)
    return path


if __name__ == "__main__":
    main()
