"""Image encoding on a GPU: the whole encode job compared with the bare forward pass and with reading alone.

8,192 photos are created from those of the Magento Luma shop, each slightly rotated and cropped, to get the size of a
larger shop: JPEG of about 700 pixels. CLIP is ViT-B/32 with random weights, which are as fast as trained ones. The
following run in turns, and the figures are medians of three: `forward`, the model on prepared photos; `threads` and
`processes`, reading, decoding and scaling with one of either for each core; `job` and `job_processes`, the whole job.

`half_cosine` is the smallest cosine between a vector in half precision and one in fp32. Needs a CUDA GPU and the data
folder.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from report import report
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

from embed.catalogue import Catalogue, ingest
from embed.encode_job import encode_images, iterate_images
from embed.encoders import ImageEncoder, choose_device, load_image_encoder
from embed.encoders.encoder import unit_rows
from embed.images import ImageRefused, ImageSource
from embed.images.image_reader import ImageReader
from embed.images.read_ahead import read_ahead

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "magento-luma"
SEED, IMAGES, ROUNDS, COMPARED = 0, 8192, 3, 512
NOTHING: frozenset[bytes] = frozenset()


def main() -> None:
    device = choose_device("cuda")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = sorted(path for path in DATA.rglob("*") if path.suffix in {".jpg", ".jpeg", ".png"})
        with ProcessPoolExecutor() as pool:
            made = pool.map(vary, [(photos[each % len(photos)], each, folder) for each in range(IMAGES)], chunksize=64)
            files = list(track(made, "photos", IMAGES, console=Console(stderr=True)))
        lines = [f"{number},Thing,{file}" for number, file in enumerate(files)]
        (folder / "items.csv").write_text("\n".join(["item_id,title,image", *lines]))
        ingest(folder / "items.csv", folder / "catalogue")
        catalogue, source = Catalogue.current(folder / "catalogue"), ImageSource(folder)
        figures: dict[str, float | int | str | None] = {
            "gpu": torch.cuda.get_device_name(),
            "cores": device.threads,
            "images": IMAGES,
        }
        for label, spec in (("bundled", "bundled"), ("clip", f"open_clip:ViT-B-32/{clip_weights(folder)}")):
            encoder = load_image_encoder(spec, device)
            figures |= {f"{label}_{key}": value for key, value in measure(encoder, catalogue, source, folder).items()}
    report("gpu_encoding", figures, SEED, ("torch", "torchvision", "timm", "open_clip_torch", "pillow"))


def measure(encoder: ImageEncoder, catalogue: Catalogue, source: ImageSource, folder: Path) -> dict[str, float]:
    """Return the rates and cosines of an encoder."""
    cores = len(os.sched_getaffinity(0))
    stores = iter(range(1000))

    def read(processes: bool) -> list[Any]:
        reading = ImageReader(source, encoder.prepare, encoder.shrink_to, NOTHING.__contains__)
        ahead = read_ahead(
            iterate_images(catalogue), lambda image: image.reference, reading, cores, 2 * encoder.batch, processes
        )
        return [outcome[1] for _, outcome in ahead if not isinstance(outcome, ImageRefused)]

    def job(processes: bool) -> None:
        store = folder / f"{encoder.fingerprint}{next(stores)}"
        encode_images(store, catalogue, encoder, source, None, cores, processes)

    prepared = read(processes=False)
    reference = in_fp32(encoder, prepared[:COMPARED])
    runs: dict[str, Callable[[], object]] = {
        "forward": lambda: encoder.encode_images(prepared),
        "threads": lambda: read(processes=False),
        "processes": lambda: read(processes=True),
        "job": lambda: job(processes=False),
        "job_processes": lambda: job(processes=True),
    }
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in track(range(ROUNDS), encoder.name[:12], console=Console(stderr=True)):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            took[name].append(time.perf_counter() - started)
    rates = {name: IMAGES / statistics.median(seconds) for name, seconds in took.items()}
    vectors = encoder.encode_images(prepared[:COMPARED])
    return {
        **{f"{name}_per_s": round(rate) for name, rate in rates.items()},
        "job_over_forward": round(max(rates["job"], rates["job_processes"]) / rates["forward"], 3),
        "half_cosine": round(float((vectors * reference).sum(1).min()), 5),
    }


def in_fp32(encoder: Any, prepared: list[Any]) -> Any:
    """Return the encoder's vectors in full precision, computed by PyTorch on the CPU."""
    from embed.encoders.bundled import _image_module
    from embed.encoders.clip import _towers

    tower = _image_module().eval() if encoder.name == "bundled" else _towers(encoder._clip)[0].cpu().float().eval()
    with torch.inference_mode():
        batches = (torch.from_numpy(np.stack(prepared[at : at + 64])) for at in range(0, len(prepared), 64))
        return unit_rows(torch.cat([tower(batch) for batch in batches]).numpy())


def vary(arguments: tuple[Path, int, Path]) -> str:
    """Write a photo, slightly rotated and cropped, under a new name; return the name."""
    path, number, folder = arguments
    random = np.random.default_rng([SEED, number])
    image = Image.open(path).convert("RGB").resize((700, 700)).rotate(random.uniform(-5, 5))
    left, top = (int(each) for each in random.integers(0, 40, 2))
    image.crop((left, top, left + 640, top + 640)).save(folder / f"{number}.jpg", quality=88)
    return f"{number}.jpg"


def clip_weights(folder: Path) -> Path:
    """Write random weights of ViT-B/32, with the configuration that says how they are used; return their path."""
    import open_clip

    torch.manual_seed(SEED)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_clip.get_model_config("ViT-B-32")}))
    path = folder / "vit.safetensors"
    save_file(open_clip.create_model("ViT-B-32").state_dict(), path)
    return path


if __name__ == "__main__":
    main()
