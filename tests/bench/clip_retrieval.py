r"""CLIP encoding of image files, compared with clip-retrieval 2.45's `clip_inference`: images a second on CPU.

Both sides encode the same photos of Magento Luma (else of the demo shop), all different, with the same file of random
weights for open_clip's ViT-B-32: the speed does not depend on the weights. Our side is the whole job, `encode_images`
into a new store, in bf16 where the processor supports it; clip-retrieval supports only fp32 on CPU. Both encode a few
photos first, so that loading the model, warm-up and our one-time export do not count. They run in turns, and the ratio
is that of the best rounds, because other work on the cores slows clip-retrieval more than our job: its threads share
one batch.

clip-retrieval runs in its own process, with one reader, batches of 32 and no text vectors. With 0 to 4 readers and
batches of 8 to 256 on two cores, no other choice was clearly faster. It reads local weights as they are. Its two
processes that keep statistics are disabled: each imports all of PyTorch again on the same cores, which would more than
halve its rate.

`cosine_to_clip_retrieval` is the smallest cosine between the two vectors of a photo; those of clip-retrieval are
float16. With random weights, all photos have nearly the same vector. `centred_cosine` is therefore the same measure
after the mean of each side is subtracted from its vectors.

CLIP_RETRIEVAL_PYTHON names the Python that has clip-retrieval (default: the running one). It requires older libraries
than ours. Install it without dependencies into its own environment, where it finds PyTorch, open_clip and the rest in
ours:

    .venv/bin/python -m venv clip-env
    clip-env/bin/pip install --no-deps clip-retrieval==2.45.0 all-clip==1.3.0 clip-anytorch blinker braceexpand fire \
        flask flask-cors flask-restful h5py itsdangerous pandas platformdirs termcolor wandb xxhash
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from encode import random_clip, shop
from report import earlier, report
from rich.console import Console
from rich.progress import track

from embed.catalogue import Catalogue, ingest
from embed.encode_job import encode_images
from embed.encoders import ImageEncoder, choose_device, load_image_encoder
from embed.encoders.encoder import Vectors, unit_rows
from embed.images import ImageSource

IMAGES, FEW, ROUNDS = 256, 16, 3
INSTALL = (__doc__ or "")[(__doc__ or "").index("CLIP_RETRIEVAL_PYTHON names") :]
READERS, BATCH = 1, 32  # of clip-retrieval
PACKAGES = ("torch", "open-clip-torch", "openvino", "pillow")

# Reads a folder of images and a folder for vectors from each line, and prints the seconds that encoding took.
CLIENT_CODE = """
import contextlib, importlib, os, sys, time
from importlib.metadata import version
from unittest.mock import MagicMock

sys.path.append(sys.argv[1])  # last, so that the packages of its own environment have precedence
from clip_retrieval import clip_inference

for module, statistics in ("main", "LoggerReader"), ("worker", "LoggerWriter"):
    setattr(importlib.import_module("clip_retrieval.clip_inference." + module), statistics, MagicMock())
print(", ".join(f"{name} {version(name)}" for name in ("clip-retrieval", "torch", "open-clip-torch")), flush=True)
model, readers, batch = "open_clip:ViT-B-32/" + sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
for line in sys.stdin:
    images, vectors = line.rstrip("\\n").split("\\t")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        started = time.perf_counter()
        clip_inference(
            images, vectors, enable_text=False, clip_model=model, num_prepro_workers=readers, batch_size=batch
        )
        took = time.perf_counter() - started
    print(took, flush=True)
"""


class ClipRetrieval:
    """Runs clip-retrieval in its own process, with the model loaded."""

    def __init__(self, weights: Path) -> None:
        python = os.environ.get("CLIP_RETRIEVAL_PYTHON", sys.executable)
        arguments = [sysconfig.get_path("purelib"), str(weights), str(READERS), str(BATCH)]
        # Without the safe path, Python could import this file as clip_retrieval.
        environment = os.environ | {"PYTHONSAFEPATH": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-c", CLIENT_CODE, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.versions = self._read_line(f"{python} cannot import clip_retrieval. {INSTALL}")

    def seconds(self, photos: Path, vectors: Path) -> float:
        """Encode a folder of photos into a folder of vectors; return the seconds that it took."""
        assert self._process.stdin
        print(photos, vectors, sep="\t", file=self._process.stdin, flush=True)
        return float(self._read_line("clip-retrieval ended; see its error message above"))

    def _read_line(self, error: str) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit(error)
        return line


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["VETRINA_CACHE"] = str(folder / "cache")  # the export of random weights is not used again
        weights = random_clip(folder)
        theirs = ClipRetrieval(weights)
        encoder = load_image_encoder(f"open_clip:ViT-B-32/{weights}", choose_device("cpu"))
        photos = distinct_photos(folder)
        few, every = keep(photos[:FEW], folder / "few"), keep(photos, folder / "every")
        theirs.seconds(few, folder / "few_theirs")
        ours(encoder, few, folder / "few_ours")
        their_s, our_s, vectors = [], [], {}
        for turn in track(range(ROUNDS), "rounds", console=Console(stderr=True)):
            their_s.append(theirs.seconds(every, folder / f"theirs{turn}"))
            seconds, vectors = ours(encoder, every, folder / f"ours{turn}")
            our_s.append(seconds)
        cosine, centred = alike(vectors, their_vectors(folder / "theirs0"))
    figures = {
        "images": len(photos),
        "clip_job_per_s": round(len(photos) / min(our_s), 1),
        "clip_retrieval_per_s": round(len(photos) / min(their_s), 1),
        "clip_over_clip_retrieval": round(min(their_s) / min(our_s), 2),
        "cosine_to_clip_retrieval": round(cosine, 5),
        "centred_cosine": round(centred, 5),
        "theirs": theirs.versions,
    }
    report("clip_retrieval", figures, seed=0, packages=PACKAGES)
    shared = {name: figures[name] for name in ("clip_over_clip_retrieval", "cosine_to_clip_retrieval")}
    report("encode", earlier("encode") | shared, seed=0, packages=PACKAGES)


def distinct_photos(folder: Path) -> list[Path]:
    """Return the first photos of the shop with different bytes; our job would encode equal bytes only once."""
    catalogue, root = shop(folder)
    references = sorted({image for batch in catalogue.batches() for item in batch for image in item.images})
    return list({(root / reference).read_bytes(): root / reference for reference in references}.values())[:IMAGES]


def keep(photos: list[Path], folder: Path) -> Path:
    """Copy photos into a folder, with a catalogue of one item a photo, named by its file; return the folder."""
    folder.mkdir()
    for photo in photos:
        shutil.copy(photo, folder)
    lines = [f"{photo.name},Thing,{photo.name}" for photo in photos]
    (folder / "items.csv").write_text("\n".join(["item_id,title,image", *lines]))
    ingest(folder / "items.csv", folder / "store")
    return folder


def ours(encoder: ImageEncoder, photos: Path, store: Path) -> tuple[float, dict[str, Vectors]]:
    """Run our job; return its seconds, and the vectors by file name of the photo."""
    catalogue, source = Catalogue.current(photos / "store"), ImageSource(photos)
    started = time.perf_counter()
    found = encode_images(store, catalogue, encoder, source, readers=len(os.sched_getaffinity(0)))
    took = time.perf_counter() - started
    names = [item.item_id for batch in catalogue.batches() for item in batch]
    if not found.encoded == len(names) == len(found.keys):
        raise SystemExit(f"{found.encoded} of {len(names)} photos were encoded")
    vectors = np.empty((len(names), found.dim), np.float32)
    found.gather(vectors)
    return took, {names[row]: vector for row, vector in zip(found.owners, vectors, strict=True)}


def their_vectors(folder: Path) -> dict[str, Vectors]:
    """Read the vectors that clip-retrieval wrote, by file name of the photo."""
    (vectors,), (names,) = folder.glob("img_emb/*.npy"), folder.glob("metadata/*.parquet")
    paths = pq.read_table(names)["image_path"].to_pylist()
    return {Path(path).name: vector for path, vector in zip(paths, np.load(vectors), strict=True)}


def alike(ours: dict[str, Vectors], theirs: dict[str, Vectors]) -> tuple[float, float]:
    """Return the smallest cosine between the two vectors of a photo, as they are and after centring each side."""
    if ours.keys() != theirs.keys():
        raise SystemExit(f"only one side encoded {sorted(ours.keys() ^ theirs.keys())}")
    sides = [unit_rows(np.stack([side[name] for name in ours])) for side in (ours, theirs)]
    centred = [unit_rows(side - side.mean(axis=0)) for side in sides]
    return float((sides[0] * sides[1]).sum(1).min()), float((centred[0] * centred[1]).sum(1).min())


if __name__ == "__main__":
    main()
