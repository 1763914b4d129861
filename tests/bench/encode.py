"""Encode throughput: the whole job (read, hash, decode, encode, store) compared with the model's bare forward pass.

Images are the 714 photos of the Magento Luma shop if the data folder exists, else those of the demo shop; texts are
those of the same shop. The forward pass is the same encoder on prepared inputs, in the batches of the job. Job and
forward pass run in turns, and the ratio is that of the medians. The encoder and eager PyTorch are compared on the same
images in the same way (`image_over_eager`), and the encoder and sentence-transformers' `encode` on the same texts
(`text_over_st`). CLIP is ViT-B/32 with random weights: the speed does not depend on them.

`large` photos are 100 of them enlarged to 1,500 pixels, JPEG of quality 90. Before simplejpeg and torch, Pillow decoded
and scaled photos, as `pillow` does here. `prepare_over_before` is the core time from bytes to the model's input over
that of Pillow, and `job_over_before` the rate of the job over that of the same job with Pillow.
`image_forward_over_before` is the forward pass over that without rounding by kernel (embed.encoders.bf16_weights).
`readers_scaling` is the rate of two threads that prepare large photos over that of one, and `processes_scaling` that of
two processes. `feeding_core_ms` is the core time that a photo from such a process takes of the process that encodes.
"""

import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from report import earlier, report
from rich.console import Console
from rich.progress import track

from embed.catalogue import Catalogue, FeedMapping, ingest
from embed.encode_job import encode_images, encode_texts
from embed.encoders import ImageEncoder, choose_device, load_image_encoder, load_text_encoder
from embed.encoders.bundled import TEXT_MAX_TOKENS, _image_module, _text_folder
from embed.images import ImageSource, decode_image, decode_pixels
from embed.images.image_reader import ImageReader
from embed.images.read_ahead import read_ahead
from embed.text_composition import compose_texts
from serve.demo.shop import make_shop

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[3] / "shared" / "data")) / "magento-luma"
ROUNDS, LARGE = 9, 100
LONGEST_S = 60.0  # of the rounds of one comparison; at least three are made


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
                encoder.prepare(decode_pixels(source.read(each), shrink_to=encoder.shrink_to)) for each in references
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
            **large_photos(Path(folder), source, images, references),
            **forward_over_before(images, prepared),
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


def large_photos(folder: Path, source: ImageSource, encoder: ImageEncoder, references: list[str]) -> dict[str, float]:
    """Compare preparing and encoding photos of 1,500 pixels with doing so by Pillow."""
    (folder / "large").mkdir()
    coded = []
    for number, reference in enumerate(references[:: max(1, len(references) // LARGE)][:LARGE]):
        image = decode_image(source.read(reference))
        scale = 1500 / max(image.size)
        out = io.BytesIO()
        image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC).save(
            out, "JPEG", quality=90
        )
        coded.append(out.getvalue())
        (folder / "large" / f"{number}.jpg").write_bytes(coded[-1])
    lines = [f"{number},Thing {number},{number}.jpg" for number in range(len(coded))]
    (folder / "large" / "items.csv").write_text("\n".join(["item_id,title,image", *lines]))
    ingest(folder / "large" / "items.csv", folder / "large-catalogue")
    catalogue, large = Catalogue.current(folder / "large-catalogue"), ImageSource(folder / "large")
    fresh = iter(range(1000))

    def prepare(data: bytes) -> object:
        return encoder.prepare(decode_pixels(data, shrink_to=encoder.shrink_to))

    def job() -> int:
        store = folder / f"large-store{next(fresh)}"
        return encode_images(store, catalogue, encoder, large, readers=len(os.sched_getaffinity(0))).encoded

    def job_before() -> int:
        with (
            mock.patch("embed.images.image_reader.decode_pixels", lambda data, *_, **__: data),
            mock.patch.object(encoder, "prepare", pillow, create=True),
        ):
            return job()

    def core_seconds(run: Callable[[bytes], object], photos: list[bytes]) -> float:
        started = time.thread_time()
        for data in photos:
            run(data)
        return time.thread_time() - started

    def ratio(photos: list[bytes]) -> float:
        pairs = [(core_seconds(prepare, photos), core_seconds(pillow, photos)) for _ in range(ROUNDS)][1:]
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        return round(ours / theirs, 3)

    def rate(threads: int) -> float:
        with ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            list(pool.map(prepare, coded))
            return len(coded) / (time.perf_counter() - started)

    def processes(count: int) -> tuple[float, float]:
        """Return the rate of reading processes once they have started, and this process's core time per photo."""
        reader = ImageReader(large, encoder.prepare, encoder.shrink_to, frozenset[bytes]().__contains__)
        names = [f"{number}.jpg" for number in range(len(coded))] * 8
        outcomes = read_ahead(names, str, reader, count, ahead=64, processes=True)
        for _ in range(2 * len(coded)):
            next(outcomes)
        started, core = time.perf_counter(), time.process_time()
        left = sum(1 for _ in outcomes)
        return left / (time.perf_counter() - started), (time.process_time() - core) / left

    prepared = [prepare(data) for data in coded]
    torch.set_num_threads(1)
    scaling = [rate(2) / rate(1) for _ in range(ROUNDS)]
    one, two = ([processes(count) for _ in range(3)] for count in (1, 2))
    jobs = compare("large_job", "before", job, job_before, len(coded))
    forward = side_by_side("large", job, lambda: len(encoder.encode_images(prepared)))
    return {
        "large_images": len(coded),
        "large_prepare_over_before": ratio(coded),
        "query_photo_prepare_over_before": ratio(coded[:1] * 20),
        "readers_scaling": round(statistics.median(scaling), 2),
        "processes_scaling": round(
            statistics.median(rate for rate, _ in two) / statistics.median(rate for rate, _ in one), 2
        ),
        "feeding_core_ms": round(1000 * statistics.median(core for _, core in two), 3),
        "large_job_over_before": jobs["large_job_over_before"],
        **forward,
    }


def pillow(data: bytes) -> np.ndarray:
    """Prepare a photo for the bundled encoder with Pillow alone, as before."""
    image = decode_image(data, shrink_to=280)
    scale = 280 / min(image.size)
    size = [max(280, int(length * scale)) for length in image.size]
    left, top = (round((length - 224) / 2) for length in size)
    across, down = image.width / size[0], image.height / size[1]
    box = (left * across, top * down, (left + 224) * across, (top + 224) * down)
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=box))


def forward_over_before(encoder: ImageEncoder, prepared: list[np.ndarray]) -> dict[str, float]:
    """Compare the forward pass with that of the same model, rounded to bf16 weight by weight."""
    with mock.patch("embed.encoders.cpu_model.round_convolutions"):
        before = load_image_encoder("bundled", choose_device())
    figures = compare(
        "image_forward",
        "before",
        lambda: encoder.encode_images(prepared),
        lambda: before.encode_images(prepared),
        len(prepared),
    )
    return {"image_forward_over_before": figures["image_forward_over_before"]}


def side_by_side(name: str, job: Callable[[], int], forward: Callable[[], int]) -> dict[str, float]:
    """Time job and forward pass in turns; return the median rates a second and their ratio."""
    rates: dict[str, list[float]] = {"job": [], "forward": []}
    for _ in rounds(name):
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


def rounds(name: str) -> Iterator[int]:
    """Count the rounds of a comparison, in which its sides take turns: at least three, and more while there is time."""
    started = time.perf_counter()
    for number in track(range(ROUNDS), name, console=Console(stderr=True)):
        if number >= 3 and time.perf_counter() - started > LONGEST_S:
            return
        yield number


def compare(
    name: str, other: str, ours: Callable[[], object], theirs: Callable[[], object], count: int
) -> dict[str, float]:
    """Time our side and another library in turns; return images or texts a second of both, and their ratio."""
    seconds: dict[str, list[float]] = {name: [], other: []}
    for _ in rounds(f"{name} and {other}"):
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
