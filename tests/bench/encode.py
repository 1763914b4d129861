"""Encode throughput: the whole job (read, hash, decode, encode, store) beside the model's bare forward pass.

Images are the 714 photos of the Magento Luma shop where the data folder is there, else those of the drawn shop; texts
are the shop's. Forward pass: the same encoder on inputs prepared beforehand, in the job's own batches. Job and forward
pass take turns, and the ratio is of the medians. `image_onnx_over_eager` is ONNX Runtime beside eager PyTorch on the
same batch.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from report import report
from rich.console import Console
from rich.progress import track

from embed.catalogue import Catalogue, Mapping, ingest
from embed.compose import compose_texts
from embed.encode_job import encode_images, encode_texts
from embed.encoders import choose_device, load_image_encoder, load_text_encoder
from embed.encoders.bundled import _image_module
from embed.images import ImageSource, decode_image
from serve.demo.shop import make_shop

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "magento-luma"
ROUNDS = 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        catalogue, root = shop(Path(folder))
        device = choose_device()
        source = ImageSource(root)
        images, texts = load_image_encoder("bundled", device), load_text_encoder("bundled", device)
        references = sorted({image for batch in catalogue.batches() for item in batch for image in item.images})
        prepared = [
            images.prepare(decode_image(source.read(reference), shrink_to=images.shrink_to)) for reference in references
        ]
        lines = sorted({text for batch in catalogue.batches() for item in batch for _, text in compose_texts(item)})
        fresh = iter(range(1000))

        def image_job() -> int:
            store = Path(folder) / f"store{next(fresh)}"
            return encode_images(store, catalogue, images, source, readers=device.threads).encoded

        def text_job() -> int:
            return encode_texts(Path(folder) / f"store{next(fresh)}", catalogue, texts).encoded

        figures = {
            "images": len(references),
            "texts": len(lines),
            **side_by_side("image", image_job, lambda: len(images.encode_images(prepared))),
            **side_by_side("text", text_job, lambda: len(texts.encode_texts(lines).vectors)),
            **onnx_beside_eager(images, np.stack(prepared[: 2 * images.batch]), device.threads),
        }
    report("encode", figures, seed=0, packages=("torch", "onnxruntime", "pillow"))


def shop(folder: Path) -> tuple[Catalogue, Path]:
    store = folder / "catalogue"
    if DATA.is_dir():
        mapping = Mapping.load(Path(__file__).parents[1] / "data" / "luma.toml")
        ingest(DATA / "catalog.csv", store, mapping=mapping)
        return Catalogue.current(store), DATA
    make_shop(folder / "shop", items=720, shoppers=10)
    ingest(folder / "shop" / "catalog.csv", store)
    return Catalogue.current(store), folder / "shop"


def side_by_side(name: str, job: Callable[[], int], forward: Callable[[], int]) -> dict[str, float]:
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


def onnx_beside_eager(encoder, batch: np.ndarray, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    module = _image_module().eval()
    tensor = torch.from_numpy(batch)

    def eager() -> None:
        with torch.inference_mode():
            module(tensor)

    seconds: dict[str, list[float]] = {"onnx": [], "eager": []}
    for _ in track(range(7), "onnx beside eager", console=Console(stderr=True)):
        for which, run in (("onnx", lambda: encoder.encode_images(list(batch))), ("eager", eager)):
            started = time.perf_counter()
            run()
            seconds[which].append(time.perf_counter() - started)
    onnx, slow = (len(batch) / statistics.median(seconds[which][1:]) for which in ("onnx", "eager"))
    return {
        "image_onnx_per_s": round(onnx, 1),
        "image_eager_per_s": round(slow, 1),
        "image_onnx_over_eager": round(onnx / slow, 2),
    }


if __name__ == "__main__":
    main()
