"""Encoders on a real embedding server, infinity (from PyPI, in an environment of its own), beside the same models here.

The server runs on this machine with two models: the folder of the bundled text encoder, all-MiniLM-L6-v2, and a CLIP of
two layers with random weights, drawn here, as no hub is needed then. `http:` is compared with `st:` on the same folder
and with sentence-transformers in fp32, and photos and words of CLIP with transformers: the smallest cosine of an
example, after the mean of the examples is taken off. The photos are drawn, 450 x 600 pixels with grain, and go through
JPEG and data URLs; `clip_photo_agreement_other_crop` is the control, with the reference's photos cropped by a tenth.

Rates are of 1,024 texts, all different, in batches as builds have them; the server and `st:` have the same cores, and
`http:` carries what JSON and HTTP cost. The rate of photos is that of the road, since the model is small.

    .venv/bin/python tests/bench/embedding_server.py [FOLDER]

FOLDER keeps the environment (about 1.4 GB with PyTorch's CPU build) for the next run; default is a temporary one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from report import report

from embed.encoders import Device, EncoderOptions, bundled, choose_device, load_image_encoder, load_text_encoder
from embed.encoders.agreement import EXAMPLE_TEXTS, example_images, measure_agreement

# infinity misses aiohttp for images; click 8.2 breaks typer 0.12, which it pins, and transformers 5 its
# sentence-transformers.
PACKAGES = (
    "infinity-emb[torch,server]==0.0.77",
    "torch==2.13.0",
    "transformers==4.57.6",
    "click==8.1.8",
    "aiohttp==3.14.5",
)
SERVER = "infinity-emb 0.0.77"
PORT = 7997
START_S = 120.0
QUERIES = 100


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary).resolve()
        folder.mkdir(exist_ok=True)
        clip = make_clip(folder / "clip")
        os.environ.setdefault("VETRINA_CACHE", str(folder / "cache"))
        with running(install(folder / "venv"), {"minilm": bundled._text_folder(), "clip": clip}):
            report(
                "embedding_server",
                {"server": SERVER} | measure_texts(choose_device("cpu")) | measure_clip(choose_device("cpu"), clip),
                seed=0,
                packages=("torch", "transformers", "sentence-transformers", "openvino", "httpx"),
            )


def measure_texts(device: Device) -> dict[str, float | int | str | None]:
    from sentence_transformers import SentenceTransformer

    http = load_text_encoder("http:minilm", device, connection())
    local = load_text_encoder(f"st:{bundled._text_folder()}", device)
    library = SentenceTransformer(str(bundled._text_folder()), device="cpu")
    vectors = http.encode_texts(EXAMPLE_TEXTS).vectors
    texts = [f"{one}, {other}, {count}" for one, other, count in product(EXAMPLE_TEXTS, EXAMPLE_TEXTS, range(4))]
    rates = {
        encoder: rate(len(texts), lambda encoder=encoder: encoder.encode_texts(texts)) for encoder in (http, local)
    }
    waits = [1 / rate(1, lambda text=text: http.encode_texts([text], query=True)) for text in texts[:QUERIES]]
    return {
        "text_agreement_st": round(measure_agreement(vectors, local.encode_texts(EXAMPLE_TEXTS).vectors), 5),
        "text_agreement_library_fp32": round(measure_agreement(vectors, library.encode(list(EXAMPLE_TEXTS))), 5),
        "texts": len(texts),
        "texts_per_s": round(rates[http]),
        "st_texts_per_s": round(rates[local]),
        "texts_over_st": round(rates[http] / rates[local], 3),
        "query_ms": round(1000 * float(np.median(waits)), 1),
    }


def measure_clip(device: Device, folder: Path) -> dict[str, float | int | str | None]:
    from transformers import CLIPModel, CLIPProcessor

    http = load_image_encoder("http:clip", device, connection(images=True))
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    photos = example_images(600, 450)

    def photos_here(pixels: Any) -> Any:
        inputs = processor(images=list(pixels), return_tensors="pt")
        with torch.inference_mode():
            return model.get_image_features(**inputs).pooler_output.numpy()

    with torch.inference_mode():
        tokens = processor(text=list(EXAMPLE_TEXTS), return_tensors="pt", padding=True)
        words = model.get_text_features(**tokens).pooler_output.numpy()
    vectors = http.encode_images([http.prepare(photo) for photo in photos])
    prepared = [http.prepare(photo) for photo in photos] * 16
    return {
        "clip_text_agreement": round(measure_agreement(http.encode_texts(EXAMPLE_TEXTS).vectors, words), 5),
        "clip_photo_agreement": round(measure_agreement(vectors, photos_here(photos)), 5),
        "clip_photo_agreement_other_crop": round(measure_agreement(vectors, photos_here(photos[:, 60:, 45:])), 5),
        "photos_prepared_per_s": round(rate(len(photos), lambda: [http.prepare(photo) for photo in photos])),
        "photos_per_s": round(rate(len(prepared), lambda: http.encode_images(prepared))),
        "photo_url_kb": round(sum(map(len, prepared)) / len(prepared) / 1000),
    }


def connection(**options: Any) -> EncoderOptions:
    return EncoderOptions(base_url=f"http://127.0.0.1:{PORT}", **options)


def rate(count: int, run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return count / (time.perf_counter() - started)


def make_clip(folder: Path) -> Path:
    """Draw a CLIP of two layers and write it as a folder of transformers, with open_clip's vocabulary."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    size = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    model = CLIPModel(CLIPConfig(text_config=size | tokens, vision_config=size | {"patch_size": 32}, projection_dim=64))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1 and "embedding" not in name:
                weights.mul_(3)  # so that vectors differ
    model.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    tokenizer = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}  # open_clip's and transformers'
    vocabulary = {names.get(piece, piece): number for piece, number in tokenizer.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    merges = "\n".join(" ".join(pair) for pair in tokenizer.bpe_ranks)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    configuration = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    return folder


def install(folder: Path) -> Path:
    """Install the server, unless it is there, and return its command."""
    command = folder / "bin" / "infinity_emb"
    if not command.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *PACKAGES], check=True)
    return command


@contextmanager
def running(command: Path, models: dict[str, Path]) -> Iterator[None]:
    """Run the server with `models` by their names."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    arguments = ["v2", "--host", "127.0.0.1", "--port", str(PORT)]
    for name, folder in models.items():
        arguments += ["--model-id", str(folder), "--served-model-name", name, "--engine", "torch", "--device", "cpu"]
        arguments += ["--dtype", "float32", "--no-bettertransformer", "--batch-size", "32"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([command, *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(process, log)
            yield
        finally:
            process.terminate()
            process.wait()


def wait_for(process: "subprocess.Popen[bytes]", log: Any) -> None:
    """Wait until the server answers; raises SystemExit with its log where it does not."""
    started = time.monotonic()
    while time.monotonic() - started < START_S and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{PORT}/health", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    log.seek(0)
    raise SystemExit(log.read().decode()[-3000:])


if __name__ == "__main__":
    main()
