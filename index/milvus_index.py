"""Milvus search: the contract of the room on an engine of its own, for a shop that outgrows one machine.

A URI is the address of a Milvus server, or a path that ends in `.db`: milvus-lite, an engine inside this process that
scores every row, for trials and tests. Two processes can not open one `.db` at once, since it is locked; `milvus-lite
server` lets them share it. What differs from FAISS:

- nothing is memory-mapped or shared by workers: each search, and each reading of vectors, is a call over the network;
- recall on a server is measured, not tuned: the graph has one size, its effort grows with what is asked for;
- a collection never changes once built, so searches wait for no other client; that all its rows are there is counted
  once, when it is opened. Another client follows through an alias, and has the new rows when it opens that again;
- filters are expressions over the columns as they were when the collection was built. A mask without an expression
  becomes a list of item numbers, which grows with the shop. Either way only items of the mask come out.
"""

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from math import ceil
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.errors import BadQuery, Damaged, IndexFault, Missing
from index.exact import TIE, best_of_items, empty_hits, record, top
from index.selection import Selection
from index.space import Hits, Owners, Space, Vectors, check_queries

LIMIT = 16_384  # results of one query that Milvus gives at most
BATCH_ROWS, BATCH_BYTES = 2_000, 1 << 24  # written or read at once, whichever is less
GRAPH = {"M": 32, "efConstruction": 200}
MIN_EFFORT = 128
LONGEST_TEXT = 65_535  # bytes that a column can hold
ANSWER_S, BUILD_S = 20.0, 3_600.0  # waited for an answer, and for an index
ALIVE_MS = 600_000  # between pings: gRPC's servers, milvus-lite's too, hang up on whoever pings within five minutes
TOKEN = "VETRINA_MILVUS_TOKEN"  # noqa: S105 - the variable that holds user:password or an API key, which no file does
NOT_REACHED, NOT_FOUND = 2, 100  # codes of errors
FIELDS = ["row", "item", "label", "vector"]

_clients: dict[str, Any] = {}
_clients_lock = Lock()


class Rows(NamedTuple):
    """Rows as they were read, in their order: `items` [n], `labels` [n], `vectors` [n, dim]."""

    items: NDArray[np.int64]
    labels: NDArray[np.int32]
    vectors: Vectors


class MilvusIndex:
    """A collection of `rows` rows that belong to `items` items; see `build` and `open_collection`."""

    def __init__(self, uri: str, collection: str, space: Space, items: int, rows: int) -> None:
        self.uri, self.collection = uri, collection
        self.space, self.items, self.rows = space, items, rows
        self._is_exact = _is_local(uri)
        self.factory = "milvus:FLAT" if self._is_exact else "milvus:HNSW"
        self._batch = _batch(space.dim)

    def search(self, queries: Vectors, k: int, allowed: Selection | None = None) -> Hits:
        """The k best items for each of q queries [q, dim], ties by item number; `allowed` limits them.

        Always k items where k are allowed: more and more rows are asked for, and where a graph gives no more, or the
        engine, all allowed rows are read and scored here.
        """
        queries = check_queries(queries, self.space.dim, k)
        hits = empty_hits(len(queries), k)
        if not self.rows or (allowed is not None and not allowed.count):
            return hits
        condition = "" if allowed is None else allowed.made_for((self, "condition"), self._condition)
        limit = min(LIMIT, 1 + (k if self.rows <= self.items else ceil(2 * k * self.rows / self.items)))
        pending, unsure = list(range(len(queries))), list[int]()
        while pending:
            again = list[int]()
            for query, (items, scores) in zip(pending, self._nearest(queries[pending], limit, condition), strict=True):
                full = _record_best(hits, query, items, scores, allowed)
                if len(items) < limit:
                    if not self._is_exact:
                        unsure.append(query)  # a graph may miss some of the few that a filter leaves
                # Rows that were not found may tie with the last item, unless the last that was is clearly worse.
                elif not full or scores[-1] >= hits.scores[query, k - 1] - 2 * TIE:
                    (unsure if limit == LIMIT else again).append(query)
            pending, limit = again, min(2 * limit, LIMIT)
        for query in unsure:
            every = np.arange(self.items)
            _record_best(hits, query, every, self._best_scores(queries[query], self._pages(condition)), allowed)
        return hits

    def scores_of(self, query: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See VectorIndex; their vectors are read."""
        step = max(1, self._batch * self.items // max(1, self.rows))
        return self._best_scores(query, self._of_items(items, step))[items]

    def scores_of_all(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See VectorIndex; all vectors are read, which takes seconds where a search takes milliseconds."""
        return self._best_scores(query, self._pages(""))

    def vectors_of(self, items: NDArray[np.int64]) -> Vectors:
        """See VectorIndex; all their rows are read."""
        vectors = np.zeros((len(items), self.space.dim), np.float32)
        if len(items):
            rows = self._read(_listed("item", np.unique(items)))
            first = dict(zip(rows.items[::-1].tolist(), rows.vectors[::-1], strict=True))
            for place, item in enumerate(items.tolist()):
                if item in first:
                    vectors[place] = first[item]
        return vectors

    def rows_of(self, item: int) -> tuple[NDArray[np.int32], Vectors]:
        """See VectorIndex."""
        rows = self._read(f"item == {item}")
        return rows.labels, rows.vectors

    def best_labels(self, query: NDArray[np.float32], items: Sequence[int]) -> list[int | None]:
        """See VectorIndex."""
        if not items:
            return []
        rows = self._read(_listed("item", np.array(items)))
        order = np.argsort(rows.vectors @ query, kind="stable")  # the best of an item comes last, and stays
        best = dict(zip(rows.items[order].tolist(), rows.labels[order].tolist(), strict=True))
        return [best.get(item) for item in items]

    def _condition(self, allowed: Selection) -> str:
        """A selection as an expression, by whichever list of items is shorter where it brings none."""
        if allowed.expression or allowed.count == self.items:
            return allowed.expression
        few = 2 * allowed.count < self.items
        return _listed("item", np.flatnonzero(allowed.mask == few), "in" if few else "not in")

    def _nearest(
        self, queries: Vectors, limit: int, condition: str
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """For each query the items [m] and scores [m] of its nearest rows, best first; m < limit if that is all."""
        step = max(1, LIMIT // limit)
        for start in range(0, len(queries), step):
            with _engine(self.uri, self.collection) as client:
                answers = client.search(
                    self.collection,
                    data=list(queries[start : start + step]),
                    filter=condition,
                    limit=limit,
                    output_fields=["item"],
                    search_params={"metric_type": "IP", "params": {"ef": max(MIN_EFFORT, 2 * limit)}},
                    timeout=ANSWER_S,
                )
            for rows in answers:
                items = np.array([row["entity"]["item"] for row in rows], np.int64)
                yield items, np.array([row["distance"] for row in rows], np.float32)

    def _best_scores(self, query: NDArray[np.float32], pages: Iterable[Rows]) -> NDArray[np.float32]:
        """The best score of each item among the rows of some pages, [items]; -inf for one that has none there."""
        scores = np.full(self.items, -np.inf, np.float32)
        for page in pages:
            np.maximum.at(scores, page.items, page.vectors @ query)
        return scores

    def _of_items(self, items: NDArray[np.int64], step: int) -> Iterator[Rows]:
        """The rows of some items, read for so many items at once."""
        for start in range(0, len(items), step):
            yield self._read(_listed("item", items[start : start + step]))

    def _read(self, condition: str) -> Rows:
        """The rows that meet a condition that few meet, in one call."""
        with _engine(self.uri, self.collection) as client:
            return self._rows(client.query(self.collection, condition, FIELDS, timeout=ANSWER_S))

    def _pages(self, condition: str) -> Iterator[Rows]:
        """The rows that meet a condition, however many these are."""
        with _engine(self.uri, self.collection) as client:
            pages = client.query_iterator(
                self.collection, self._batch, filter=condition, output_fields=FIELDS, timeout=ANSWER_S
            )
            while page := pages.next():
                yield self._rows(page)
            pages.close()

    def _rows(self, entities: Iterable[Any]) -> Rows:
        ordered = sorted(entities, key=lambda entity: int(entity["row"]))
        return Rows(
            np.array([entity["item"] for entity in ordered], np.int64),
            np.array([entity["label"] for entity in ordered], np.int32),
            np.array([entity["vector"] for entity in ordered], np.float32).reshape(-1, self.space.dim),
        )


def build(
    uri: str,
    collection: str,
    space: Space,
    owners: Owners,
    labels: Owners,
    items: int,
    vectors: Vectors,
    columns: pa.Table | None = None,
) -> MilvusIndex:
    """Make a new collection of unit rows [n, dim] and open it; what is there of it is dropped if that fails.

    `owners` [n] is the item number of each row, never decreasing, each below `items`; `labels` [n] are kept with the
    rows. `columns` has a row for each item, of text, numbers or truth values or null: what expressions speak of. Raises
    BadQuery where these do not fit, and for the name of a collection or an alias that exists.
    """
    fit = len(owners) == len(labels) == len(vectors)
    if not fit or (len(owners) and ((np.diff(owners) < 0).any() or owners[0] < 0 or owners[-1] >= items)):
        raise BadQuery(f"owners must be as many as labels and vectors, not decrease, lie in 0..{items - 1}", "owners")
    if vectors.shape[1:] != (space.dim,):
        raise BadQuery(f"vectors have shape {list(vectors.shape)}, this space takes [n, {space.dim}]", "vectors")
    if columns is not None and columns.num_rows != items:
        raise BadQuery(f"columns have {columns.num_rows} rows for {items} items: give one for each", "columns")
    with _engine(uri, collection) as client:
        if client.has_collection(collection, timeout=ANSWER_S):
            raise BadQuery(f"{collection!r} exists at {_shown(uri)}: give the new one another name", "collection")
        schema = _schema(space.dim, columns)
        client.create_collection(collection, schema=schema, consistency_level="Bounded", timeout=ANSWER_S)
    try:
        with _engine(uri, collection) as client:
            for start in range(0, len(owners), _batch(space.dim)):
                part = slice(start, start + _batch(space.dim))
                entities = _entities(start, owners[part], labels[part], vectors[part], columns)
                client.insert(collection, entities, timeout=ANSWER_S)
            client.flush(collection, timeout=BUILD_S)
            # Only now that all rows are there: the graph is built once, over sealed segments.
            index = client.prepare_index_params()
            kind, parameters = ("FLAT", {}) if _is_local(uri) else ("HNSW", GRAPH)
            index.add_index("vector", index_type=kind, metric_type="IP", params=parameters)
            client.create_index(collection, index, timeout=BUILD_S)
        return open_collection(uri, collection, space, items, len(owners))
    except BaseException:
        with suppress(IndexFault):
            drop(uri, collection)
        raise


def open_collection(uri: str, collection: str, space: Space, items: int, rows: int) -> MilvusIndex:
    """The index on a collection, or on the one that an alias names now and from then on.

    Raises Missing where it is gone, and Damaged where it does not hold so many `rows` of this space's dimension.
    """
    with _engine(uri, collection) as client:
        if not client.has_collection(collection, timeout=ANSWER_S):
            raise Missing(f"there is no collection {collection!r} at {_shown(uri)}", collection)
        described = client.describe_collection(collection, timeout=ANSWER_S)
        client.load_collection(collection, timeout=BUILD_S)
        # Strong: it waits for all that was written, so that later searches need not.
        counted = client.query(collection, output_fields=["count(*)"], consistency_level="Strong", timeout=ANSWER_S)
    found = counted[0]["count(*)"]
    dim = {field["name"]: field["params"].get("dim") for field in described["fields"]}.get("vector")
    if (found, dim) != (rows, space.dim):
        message = f"{collection!r} at {_shown(uri)} holds {found} vectors of {dim}, expected {rows} of {space.dim}"
        raise Damaged(message, collection)
    return MilvusIndex(uri, described["collection_name"], space, items, rows)


def publish(uri: str, alias: str, collection: str) -> None:
    """Let an alias, new or not, name this collection; raises Missing where there is none."""
    with _engine(uri, collection) as client:
        exists = client.has_collection(alias, timeout=ANSWER_S)
        (client.alter_alias if exists else client.create_alias)(collection, alias, timeout=ANSWER_S)


def drop(uri: str, collection: str) -> None:
    """Drop a collection that no alias names any more; one that is not there is no matter."""
    with _engine(uri, collection) as client:
        if client.has_collection(collection, timeout=ANSWER_S):
            client.drop_collection(collection, timeout=ANSWER_S)


def prune(uri: str, prefix: str, kept: Collection[str]) -> None:
    """Drop the collections whose name begins with `prefix` but for those `kept`: what killed builds left, too."""
    with _engine(uri, prefix) as client:
        for collection in client.list_collections(timeout=ANSWER_S):
            if collection.startswith(prefix) and collection not in kept:
                drop(uri, collection)


def _schema(dim: int, columns: pa.Table | None) -> Any:
    library = _library()
    types = library.DataType
    schema = library.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", types.INT64, is_primary=True)
    schema.add_field("item", types.INT64)
    schema.add_field("label", types.INT32)
    schema.add_field("vector", types.FLOAT_VECTOR, dim=dim)
    kinds = {pa.string(): types.VARCHAR, pa.float64(): types.DOUBLE, pa.bool_(): types.BOOL}
    for column in () if columns is None else columns.schema:
        if column.type not in kinds or column.name in FIELDS:
            message = f"column {column.name} is {column.type}: give string, double or bool, not named {FIELDS}"
            raise BadQuery(message, "columns")
        length = {"max_length": LONGEST_TEXT} if column.type == pa.string() else {}
        schema.add_field(column.name, kinds[column.type], nullable=True, **length)
    return schema


def _entities(
    start: int, owners: Owners, labels: Owners, vectors: Vectors, columns: pa.Table | None
) -> list[dict[str, Any]]:
    """Rows from number `start` on as Milvus takes them, each with the columns of its item."""
    values = [{}] * len(owners) if columns is None else columns.take(pa.array(owners)).to_pylist()
    rows = zip(owners.tolist(), labels.tolist(), np.asarray(vectors), values, strict=True)
    return [
        {"row": row, "item": item, "label": label, "vector": vector, **of_item}
        for row, (item, label, vector, of_item) in enumerate(rows, start)
    ]


def _record_best(
    hits: Hits, query: int, items: NDArray[np.int64], scores: NDArray[np.float32], allowed: Selection | None
) -> bool:
    """Write the best items of some rows into row `query` of `hits`; whether these fill it."""
    if allowed is not None:
        kept = allowed.mask[items]
        items, scores = items[kept], scores[kept]
    scores, items = best_of_items(scores, items)
    best = top(scores, items, hits.ids.shape[1])
    record(hits, query, items[best], scores[best])
    return bool(hits.counts[query] == hits.ids.shape[1])


def _listed(field: str, numbers: NDArray[np.int64], word: str = "in") -> str:
    # As text, not as parameters of the expression, which milvus-lite does not know.
    return f"{field} {word} [{','.join(map(str, numbers.tolist()))}]"


def _batch(dim: int) -> int:
    return max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * dim)))


def _is_local(uri: str) -> bool:
    return uri.endswith(".db")


@contextmanager
def _engine(uri: str, collection: str) -> Iterator[Any]:
    """The client of a URI; its errors become errors of this room, which name the URI and the collection."""
    client = _client(uri)
    try:
        yield client
    except (_library().MilvusException, import_module("grpc").RpcError) as error:
        code, what = getattr(error, "code", None), f"{collection!r} at {_shown(uri)}"
        if code == NOT_FOUND:
            raise Missing(f"there is no {what} ({_reason(error)})", collection) from error
        if code == NOT_REACHED or not isinstance(code, int):  # else it is a number that Milvus answered with
            raise Missing(f"no answer about {what} ({_reason(error)})", collection) from error
        raise Damaged(f"{what} failed ({_reason(error)})", collection) from error


def _client(uri: str) -> Any:
    """The client of a URI, one for each in a process; raises Missing where nothing answers there."""
    with _clients_lock:
        if uri not in _clients:
            library = _library()
            for name in ("pymilvus", "milvus_lite"):
                # They print a trace of each error that they raise, and which becomes one of ours.
                logging.getLogger(name).setLevel(logging.CRITICAL)
            try:
                _clients[uri] = library.MilvusClient(
                    uri,
                    token=os.environ.get(TOKEN, ""),
                    timeout=ANSWER_S,
                    grpc_options={"grpc.keepalive_time_ms": ALIVE_MS},
                )
            except library.MilvusException as error:
                hint = "; if another process has it open, share it by milvus-lite server" if _is_local(uri) else ""
                raise Missing(f"no Milvus at {_shown(uri)} ({_reason(error)}){hint}", "uri") from error
        return _clients[uri]


def _library() -> Any:
    try:
        return import_module("pymilvus")
    except ImportError as error:
        raise Missing("pymilvus is not installed: pip install 'vetrina[milvus]'", "pymilvus") from error


def _reason(error: Any) -> str:
    message = getattr(error, "message", None) or error.details()
    return str(message).partition("\n")[0][:200]


def _shown(uri: str) -> str:
    """A URI without the password that it may hold."""
    return re.sub(r"//[^/]*@", "//", uri)
