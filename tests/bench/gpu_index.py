"""FAISS on a GPU compared with FAISS on the CPU cores of the same machine: training of centroids, and search.

500,000 rows of 256 values (see `vectors`), in index types that the tuner tries; 10,000 queries at once and 200 one by
one. `agree` is the share of the ten nearest rows that both sides find. Needs a GPU and the extra `gpu`.
"""

import subprocess
import time

import faiss
import numpy as np
from report import report
from rich.console import Console
from vectors import mixture

from index import gpu
from index.faiss_files import train_index

SEED, ROWS, DIM, QUERIES, SINGLE, K, PROBE = 0, 500_000, 256, 10_000, 200, 10, 16
INDEX_TYPES = {
    "flat": "Flat",
    "ivf": "IVF2048,Flat",
    "sq8": "IVF2048,SQ8",
    "fp16": "IVF2048,SQfp16",
    "graph": "IVF2048_HNSW32,SQ8",
}

out = Console(stderr=True)


def main() -> None:
    if gpu.gpu_unavailable_reason():
        raise SystemExit(gpu.gpu_unavailable_reason())
    every = mixture(ROWS + QUERIES, DIM, SEED)
    vectors, queries = every[:ROWS], every[ROWS:]
    device = gpu.find_gpu()
    figures: dict[str, float | int | str | None] = {"gpu": gpu_name(), "rows": ROWS, "dim": DIM}
    for name, factory in INDEX_TYPES.items():
        gpu.set_gpu_enabled(False)
        started = time.perf_counter()
        on_cores = train_index(vectors, factory)
        cores_s = time.perf_counter() - started
        gpu.set_gpu_enabled(True)
        if name == "ivf":
            started = time.perf_counter()
            train_index(vectors, factory)
            figures |= {"train_cores_s": round(cores_s, 2), "train_gpu_s": round(time.perf_counter() - started, 2)}
        on_gpu = device.upload(on_cores) if device is not None else None
        figures[f"{name}_uploads"] = on_gpu is not None
        if on_gpu is None:
            continue
        parameters = faiss.SearchParametersIVF(nprobe=PROBE) if isinstance(on_cores, faiss.IndexIVF) else None
        found = {}
        for where, index in (("cores", on_cores), ("gpu", on_gpu)):
            index.search(queries[:100], K, params=parameters)
            started = time.perf_counter()
            found[where] = index.search(queries, K, params=parameters)[1]
            together = time.perf_counter() - started
            started = time.perf_counter()
            for at in range(SINGLE):
                index.search(queries[at : at + 1], K, params=parameters)
            single = time.perf_counter() - started
            figures |= {
                f"{name}_{where}_us": round(1e6 * together / QUERIES, 2),
                f"{name}_{where}_single_us": round(1e6 * single / SINGLE, 1),
            }
        same = [len(np.intersect1d(a, b)) / K for a, b in zip(found["cores"], found["gpu"], strict=True)]
        figures[f"{name}_agree"] = round(float(np.mean(same)), 4)
        out.print(figures)
    report("gpu_index", figures, SEED, ("numpy",))


def gpu_name() -> str:
    """Return the name of the GPU that the driver reports."""
    return subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
