"""The encode job on many machines: workers of Ray Data read, decode and encode; this process alone writes the store.

What comes back is kept in the catalogue's order, so the store ends up byte for byte as one process would have left it
(on processors of one kind). Work that is lost with a machine is done again by another; what two machines encoded, as
both met the same image, is kept once. A worker loads its own encoder and reads images itself: it needs vetrina, and
the image folder at the same path, or images that are URLs.
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
from embed.encode_job import Encoded, Job, Progress, Reference, Seen, SpaceVectors, encoded, references, texts
from embed.encoders import ImageEncoder, TextEncoder, choose_device, load_image_encoder, load_text_encoder
from embed.errors import BadInput, Missing
from embed.images import ImageRefused, ImageSource
from embed.images.reading import Reading
from embed.vector_store import UserContext, VectorStore

BLOCK = 256  # images or texts that a worker takes at a time, and that are lost with it
_VECTOR = pa.list_(pa.float32())
_SEEN = pa.schema(
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


class Cluster:
    """The Ray cluster of RAY_ADDRESS, or else one of this machine alone that ends with `close`."""

    def __init__(self, device: str, threads: int) -> None:
        """`threads` are the processors of one worker, 0 for one; a worker has a card of its own where there are any.

        Raises BadInput where Ray is not installed, Missing where the cluster cannot be reached.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
        try:
            import ray
            import ray.data
        except ImportError:
            raise BadInput("the engine ray needs Ray: pip install 'vetrina[ray]'", "engine") from None
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
        """What `worker(*arguments)` makes of each table, in their order."""
        blocks = list(tables)
        if not blocks:
            return
        resources: dict[str, float] = self._ray.cluster_resources()  # type: ignore[no-untyped-call]
        cards = 0 if self.device == "cpu" else int(resources.get("GPU", 0))
        workers = cards or max(1, int(resources.get("CPU", 1)) // self.threads)
        found = self._ray.data.from_arrow(blocks).map_batches(
            worker,
            batch_size=None,
            batch_format="pyarrow",
            compute=self._ray.data.ActorPoolStrategy(size=min(workers, len(blocks))),
            fn_constructor_args=(*arguments, "cuda" if cards else "cpu", self.threads),
            num_cpus=self.threads,
            num_gpus=1 if cards else 0,
        )
        yield from found.iter_batches(batch_size=None, batch_format="pyarrow")

    def close(self) -> None:
        self._ray.shutdown()


def encode_images_on_ray(
    cluster: Cluster,
    store: Path,
    catalogue: Catalogue,
    encoder: ImageEncoder,
    source: dict[str, Any],
    progress: Progress | None = None,
) -> SpaceVectors:
    """As encode_job.encode_images; `encoder` tells the space, `source` is what every worker makes an ImageSource of."""
    job = Job(VectorStore(store, "image", encoder.fingerprint, encoder.dim))
    known = UserContext(job.store.keys())
    tables = (
        pa.table([list(column) for column in zip(*block, strict=True)], schema=pa.schema(list(_SEEN)[:4]))
        for block in _blocks(references(catalogue))
    )
    found = cluster.map(tables, ImageWorker, encoder.name, source, known)
    return job.take_images(encoder, _images(found), catalogue, progress)


def encode_texts_on_ray(
    cluster: Cluster, store: Path, catalogue: Catalogue, encoder: TextEncoder, progress: Progress | None = None
) -> SpaceVectors:
    """As encode_job.encode_texts."""
    job = Job(VectorStore(store, "text", encoder.fingerprint, encoder.dim))
    new = [(key, text) for row, label, key, text in texts(catalogue) if job.note(row, label, key)]
    tables = (
        pa.table({"key": [key for key, _ in block], "text": [text for _, text in block]}) for block in _blocks(new)
    )
    truncated = done = 0
    for table in cluster.map(tables, TextWorker, encoder.name):
        job.take(Encoded(table["key"].to_pylist(), _vectors(table["vector"])))
        truncated += table["truncated"][0].as_py()
        done += len(table)
        if progress:
            progress(done, len(new))
    return job.finish("text", encoder, truncated=truncated)


class ImageWorker:
    """Reads and encodes one table of images after the other; an actor of Ray Data."""

    def __init__(self, name: str, source: dict[str, Any], known: UserContext, device: str, threads: int) -> None:
        self._encoder = load_image_encoder(name, choose_device(device, threads))
        self._source = ImageSource(**source)
        self._known = known
        self._threads = threads

    def __call__(self, table: pa.Table) -> pa.Table:
        images = [Reference(*row.values()) for row in table.to_pylist()]
        given: set[bytes] = set()  # of this table: what was given out before may be lost with another machine

        def has(key: bytes) -> bool:
            return key in given or key in self._known

        encoder, source = self._encoder, self._source
        reading = Reading(source, encoder.prepare, encoder.shrink_to, has, coded=encoder.decode is not None)
        seen: list[Seen] = []
        vectors: dict[bytes, NDArray[np.float32]] = {}
        for one in encoded(images, encoder, reading, has, self._threads + 1):
            if isinstance(one, Encoded):
                vectors.update(zip(one.keys, one.vectors, strict=True))
            else:
                seen.append(one)
                if one.key is not None:
                    given.add(one.key)
        columns = zip(*(_row(one, vectors) for one in seen), strict=True)
        return pa.table([list(column) for column in columns], schema=_SEEN)


class TextWorker:
    """Encodes one table of texts after the other; an actor of Ray Data."""

    def __init__(self, name: str, device: str, threads: int) -> None:
        self._encoder = load_text_encoder(name, choose_device(device, threads))

    def __call__(self, table: pa.Table) -> pa.Table:
        found = self._encoder.encode_texts(table["text"].to_pylist())
        return pa.table(
            {
                "key": table["key"],
                "vector": pa.array(list(found.vectors), _VECTOR),
                "truncated": pa.array([found.truncated] * len(table)),  # of the table
            }
        )


def _check_reachable(address: str) -> None:
    """Ray itself would look for minutes for a cluster that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise Missing(f"there is no Ray cluster at {address} ({error}): check RAY_ADDRESS", "engine") from error


def _row(one: Seen, vectors: dict[bytes, NDArray[np.float32]]) -> tuple[Any, ...]:
    code, reason = (one.refused.code, one.refused.message) if one.refused is not None else (None, None)
    vector = vectors.pop(one.key, None) if one.key is not None else None  # of equal images the first has it
    return (*one.image, one.key, code, reason, vector)


def _images(tables: Iterable[pa.Table]) -> Iterator[Seen | Encoded]:
    """What workers made of the images, as one process gives it out."""
    for table in tables:
        for row in table.drop_columns("vector").to_pylist():
            refused = None if row["code"] is None else ImageRefused(row["code"], row["reason"])
            yield Seen(Reference(row["row"], row["label"], row["item_id"], row["reference"]), row["key"], refused)
        made = table.filter(table["vector"].is_valid())
        yield Encoded(made["key"].to_pylist(), _vectors(made["vector"]))


def _vectors(column: pa.ChunkedArray) -> NDArray[np.float32]:
    flat = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(column), -1) if len(column) else np.empty((0, 0), np.float32)


def _blocks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(rows)
    while block := list(islice(left, BLOCK)):
        yield block
