"""The encode job on many machines: Ray Data workers read, decode and encode; only this process writes the store.

Results are stored in catalogue order, so the store is byte for byte the one that a single process would write (on
processors of one kind). If a machine is lost, another one repeats its work; an image that two machines encoded is
stored once. A worker loads its own encoder and reads images itself. It therefore needs vetrina, and either the image
folder at the same path or images that are URLs.
"""

import logging
import os
import socket
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embed.catalogue import Catalogue
from embed.encode_job import (
    EncodedBatch,
    ImageReference,
    ImageResult,
    SpaceBuilder,
    SpaceVectors,
    encode_stream,
    iterate_images,
    iterate_texts,
)
from embed.encoders import (
    EncoderOptions,
    ImageEncoder,
    TextEncoder,
    choose_device,
    load_image_encoder,
    load_text_encoder,
)
from embed.errors import BadInput, Missing
from embed.images import ImageRefused, ImageSource
from embed.images.image_reader import ImageReader
from embed.progress import Progress
from embed.vector_store import KeySet, VectorStore

BLOCK_SIZE = 256  # images or texts of one task, which are lost with its worker
_VECTOR = pa.list_(pa.float32())
_RESULT = pa.schema(
    [
        pa.field("row", pa.int32()),
        pa.field("label", pa.int32()),
        pa.field("item_id", pa.string()),
        pa.field("reference", pa.string()),
        pa.field("key", pa.binary()),
        pa.field("code", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("vector", _VECTOR),
    ]
)


class RayCluster:
    """The Ray cluster at RAY_ADDRESS, or a local one that ends with `close`."""

    def __init__(self, device: str, threads: int) -> None:
        """Connect to the cluster, or start a local one.

        `threads` is the number of processors of one worker, 0 for one. If the cluster has GPUs, each worker gets one.
        Raises BadInput if Ray is not installed, Missing if the cluster cannot be reached.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
        try:
            import ray
            import ray.data
        except ImportError:
            raise BadInput(
                "engine ray is not available: Ray is not installed; run pip install 'vetrina[ray]'", "engine"
            ) from None
        _check_reachable(os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError) as error:
            raise Missing(f"the Ray cluster cannot be reached ({error}): check RAY_ADDRESS", "engine") from error
        self._ray = ray
        self.device, self.threads = device, threads or 1
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)

    def map(self, tables: Iterable[pa.Table], worker: type, *arguments: Any) -> Iterator[pa.Table]:
        """Apply `worker(*arguments)` to each table, and yield the results in order."""
        blocks = list(tables)
        if not blocks:
            return
        resources: dict[str, float] = self._ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = 0 if self.device == "cpu" else int(resources.get("GPU", 0))
        workers = gpus or max(1, int(resources.get("CPU", 1)) // self.threads)
        results = self._ray.data.from_arrow(blocks).map_batches(
            worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=self._ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
            fn_constructor_args=(*arguments, "cuda" if gpus else "cpu", self.threads),
            num_cpus=self.threads,
            num_gpus=1 if gpus else 0,
        )
        yield from results.iter_batches(batch_size=None, batch_format="pyarrow")

    def close(self) -> None:
        self._ray.shutdown()


def encode_images_on_ray(
    cluster: RayCluster,
    store: Path,
    catalogue: Catalogue,
    encoder: ImageEncoder,
    options: EncoderOptions,
    source: dict[str, Any],
    progress: Progress | None = None,
) -> SpaceVectors:
    """Encode images on a cluster; see encode_job.encode_images.

    Args:
        cluster: The cluster.
        store: The store's folder.
        catalogue: The items.
        encoder: Names the space; each worker loads its own copy.
        options: The encoder's options.
        source: Arguments with which each worker makes its ImageSource.
        progress: Called with images done and images in total.

    Returns:
        The rows of the image space.
    """
    builder = SpaceBuilder(VectorStore(store, "image", encoder.fingerprint, encoder.dim))
    stored = KeySet(builder.store.keys())
    tables = (
        pa.table([list(column) for column in zip(*block, strict=True)], schema=pa.schema(list(_RESULT)[:4]))
        for block in _blocks(iterate_images(catalogue))
    )
    results = cluster.map(tables, ImageWorker, encoder.name, options, source, stored)
    return builder.add_images(encoder, _image_results(results), catalogue, progress)


def encode_texts_on_ray(
    cluster: RayCluster,
    store: Path,
    catalogue: Catalogue,
    encoder: TextEncoder,
    options: EncoderOptions,
    progress: Progress | None = None,
) -> SpaceVectors:
    """Encode texts on a cluster; see encode_job.encode_texts. `progress` gets new texts done and in total."""
    builder = SpaceBuilder(VectorStore(store, "text", encoder.fingerprint, encoder.dim))
    new = [(key, text) for row, label, key, text in iterate_texts(catalogue) if builder.add_row(row, label, key)]
    tables = (
        pa.table({"key": [key for key, _ in block], "text": [text for _, text in block]}) for block in _blocks(new)
    )
    truncated = done = 0
    for table in cluster.map(tables, TextWorker, encoder.name, options):
        builder.add_vectors(EncodedBatch(table["key"].to_pylist(), _vectors(table["vector"])))
        truncated += table["truncated"][0].as_py()
        done += len(table)
        if progress:
            progress(done, len(new))
    return builder.finish("text", encoder, truncated=truncated)


class ImageWorker:
    """Reads and encodes tables of images; an actor of Ray Data."""

    def __init__(
        self, name: str, options: EncoderOptions, source: dict[str, Any], stored: KeySet, device: str, threads: int
    ) -> None:
        self._encoder = load_image_encoder(name, choose_device(device, threads), options)
        self._source = ImageSource(**source)
        self._stored = stored
        self._threads = threads

    def __call__(self, table: pa.Table) -> pa.Table:
        images = [ImageReference(*row.values()) for row in table.to_pylist()]
        yielded: set[bytes] = set()  # of this table only: results of other tables may be lost with their machine

        def has(key: bytes) -> bool:
            return key in yielded or key in self._stored

        encoder, source = self._encoder, self._source
        reader = ImageReader(source, encoder.prepare, encoder.shrink_to, has)
        results: list[ImageResult] = []
        vectors: dict[bytes, NDArray[np.float32]] = {}
        for one in encode_stream(images, encoder, reader, has, self._threads + 1):
            if isinstance(one, EncodedBatch):
                vectors.update(zip(one.keys, one.vectors, strict=True))
            else:
                results.append(one)
                if one.key is not None:
                    yielded.add(one.key)
        columns = zip(*(_row(result, vectors) for result in results), strict=True)
        return pa.table([list(column) for column in columns], schema=_RESULT)


class TextWorker:
    """Encodes tables of texts; an actor of Ray Data."""

    def __init__(self, name: str, options: EncoderOptions, device: str, threads: int) -> None:
        self._encoder = load_text_encoder(name, choose_device(device, threads), options)

    def __call__(self, table: pa.Table) -> pa.Table:
        encoded = self._encoder.encode_texts(table["text"].to_pylist())
        return pa.table(
            {
                "key": table["key"],
                "vector": pa.array(list(encoded.vectors), _VECTOR),
                "truncated": pa.array([encoded.truncated] * len(table)),  # of the table
            }
        )


def _check_reachable(address: str) -> None:
    """Raise Missing at once if no cluster listens at an address; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise Missing(f"no Ray cluster at {address} ({error}): check RAY_ADDRESS", "engine") from error


def _row(result: ImageResult, vectors: dict[bytes, NDArray[np.float32]]) -> tuple[Any, ...]:
    code, reason = (result.refused.code, result.refused.message) if result.refused is not None else (None, None)
    vector = vectors.pop(result.key, None) if result.key is not None else None  # only the first of equal images has it
    return (*result.image, result.key, code, reason, vector)


def _image_results(tables: Iterable[pa.Table]) -> Iterator[ImageResult | EncodedBatch]:
    """Yield the workers' results as `encode_stream` yields them."""
    for table in tables:
        for row in table.drop_columns("vector").to_pylist():
            refused = None if row["code"] is None else ImageRefused(row["code"], row["reason"])
            yield ImageResult(
                ImageReference(row["row"], row["label"], row["item_id"], row["reference"]), row["key"], refused
            )
        with_vector = table.filter(table["vector"].is_valid())
        yield EncodedBatch(with_vector["key"].to_pylist(), _vectors(with_vector["vector"]))


def _vectors(column: pa.ChunkedArray) -> NDArray[np.float32]:
    flat = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(column), -1) if len(column) else np.empty((0, 0), np.float32)


def _blocks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = iter(rows)
    while block := list(islice(remaining, BLOCK_SIZE)):
        yield block
