"""What a card does with images: the whole encode job beside the bare forward pass and the bare reading and decoding.

8,192 photos are made of those of the Magento Luma shop, each turned and cropped a little, as a shop of that size has
them: JPEG of some 700 pixels. CLIP is ViT-B/32 with drawn weights, which are as fast as learned ones. Job, forward pass
and decoding take turns, and the ratios are of the medians. Needs a CUDA card and the data folder.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from report import report
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

from embed.catalogue import Catalogue, ingest
from embed.encode_job import encode_images
from embed.encoders import choose_device, load_image_encoder
from embed.images import ImageSource, decode_image

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "magento-luma"
SEED, IMAGES, ROUNDS = 0, 8192, 3


def main() -> None:
    device = choose_device("cuda")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = sorted(path for path in DATA.rglob("*") if path.suffix in {".jpg", ".jpeg", ".png"})
        with ProcessPoolExecutor() as pool:
            made = pool.map(vary, [(photos[each % len(photos)], each, folder) for each in range(IMAGES)], chunksize=64)
            references = list(track(made, "photos", IMAGES, console=Console(stderr=True)))
        lines = [f"{number},Thing,{reference}" for number, reference in enumerate(references)]
        (folder / "items.csv").write_text("\n".join(["item_id,title,image", *lines]))
        ingest(folder / "items.csv", folder / "catalogue")
        catalogue, source = Catalogue.current(folder / "catalogue"), ImageSource(folder)
        figures: dict[str, float | int | str | None] = {
            "card": torch.cuda.get_device_name(),
            "cores": device.threads,
            "images": IMAGES,
        }
        for label, spec in (("bundled", "bundled"), ("clip", f"open_clip:ViT-B-32/{clip_weights(folder)}")):
            encoder = load_image_encoder(spec, device)

            def read(reference: str, encoder=encoder) -> np.ndarray:
                return encoder.prepare(decode_image(source.read(reference), shrink_to=encoder.shrink_to))

            with ThreadPoolExecutor(device.threads) as readers:
                prepared = list(readers.map(read, references))
            stores = iter(range(1000))

            def decode(read=read) -> None:
                with ThreadPoolExecutor(device.threads) as readers:
                    for _ in readers.map(read, references):
                        pass

            def job(encoder=encoder, label=label, stores=stores) -> None:
                encode_images(folder / f"{label}{next(stores)}", catalogue, encoder, source, None, device.threads, True)

            def forward(encoder=encoder, prepared=prepared) -> None:
                encoder.encode_images(prepared)

            rates = in_turns({"forward": forward, "decode": decode, "job": job}, label)
            figures |= {f"{label}_{what}_per_s": round(rate) for what, rate in rates.items()}
            figures[f"{label}_job_over_forward"] = round(rates["job"] / rates["forward"], 3)
    report("card", figures, SEED, ("torch", "timm", "open_clip_torch", "pillow"))


def vary(told: tuple[Path, int, Path]) -> str:
    """A photo, turned and cropped a little, under a new name."""
    path, number, folder = told
    random = np.random.default_rng([SEED, number])
    image = Image.open(path).convert("RGB").resize((700, 700)).rotate(random.uniform(-5, 5))
    left, top = (int(each) for each in random.integers(0, 40, 2))
    image.crop((left, top, left + 640, top + 640)).save(folder / f"{number}.jpg", quality=88)
    return f"{number}.jpg"


def clip_weights(folder: Path) -> Path:
    """Weights of ViT-B/32 as they are drawn before training."""
    import open_clip

    torch.manual_seed(SEED)
    path = folder / "vit.safetensors"
    save_file(open_clip.create_model("ViT-B-32").state_dict(), path)
    return path


def in_turns(runs: dict[str, Callable[[], None]], label: str) -> dict[str, float]:
    """Images a second of each, the median of several rounds."""
    took: dict[str, list[float]] = {what: [] for what in runs}
    for _ in track(range(ROUNDS), label, console=Console(stderr=True)):
        for what, run in runs.items():
            started = time.perf_counter()
            run()
            took[what].append(time.perf_counter() - started)
    return {what: IMAGES / statistics.median(of) for what, of in took.items()}


if __name__ == "__main__":
    main()
