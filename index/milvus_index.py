"""Milvus search: a VectorIndex on a separate engine, for a shop that is too large for one machine.

A URI is the address of a Milvus server, or a path that ends in `.db`: milvus-lite, an engine inside this process that
scores every row, for trials and tests. Two processes cannot open one `.db` file at once, since it is locked;
`milvus-lite server` lets them share it. Differences from FAISS:

- Nothing is memory-mapped or shared by workers: each search, and each read of vectors, is a network call.
- Recall on a server is measured, not tuned: the graph has one size, and its effort grows with the number of results.
- A collection never changes after it is built, so searches do not wait for other clients. That all its rows are there
  is checked once, when it is opened. Another client follows an alias, and has the new rows when it opens that again.
- Filters are expressions over the columns as they were when the collection was built. A mask without an expression
  becomes a list of item indices, which grows with the shop. Either way only items of the mask are returned.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.errors import IndexDamaged, IndexMissing, InvalidQuery, VectorIndexError
from index.item_mask import ItemMask
from index.milvus_client import BUILD_S, REQUEST_S, connect, import_pymilvus, is_local, redact_password
from index.space import NearestItems, Owners, Space, Vectors, normalize_queries
from index.top_k import TIE, best_per_item, top_k

MAX_RESULTS = 16_384  # results of one query that Milvus can return
MAX_BATCH_ROWS, MAX_BATCH_BYTES = 2_000, 1 << 24  # written or read at once, whichever is less
GRAPH = {"M": 32, "efConstruction": 200}
MIN_EF = 128
MAX_TEXT_BYTES = 65_535  # of a column
FIELDS = ["row", "item", "label", "vector"]


class StoredRows(NamedTuple):
    """Rows read from a collection, in row order: `items` [n], `labels` [n], `vectors` [n, dim]."""

    items: NDArray[np.int64]
    labels: NDArray[np.int32]
    vectors: Vectors


class MilvusIndex:
    """A collection of `rows` rows that belong to `items` items; see `build_collection` and `open_collection`."""

    def __init__(self, uri: str, collection: str, space: Space, items: int, rows: int) -> None:
        self.uri, self.collection = uri, collection
        self.space, self.items, self.rows = space, items, rows
        self._is_exact = is_local(uri)
        self.factory = "milvus:FLAT" if self._is_exact else "milvus:HNSW"
        self._batch = _batch_rows(space.dim)

    def search(self, queries: Vectors, k: int, allowed: ItemMask | None = None) -> NearestItems:
        """Find the k best items for each of q queries [q, dim]; see VectorIndex.

        Requests more and more rows until k items are found. If the graph or the engine returns no more, reads all
        allowed rows and scores them here.
        """
        queries = normalize_queries(queries, self.space.dim, k)
        results = NearestItems.empty(len(queries), k)
        if not self.rows or (allowed is not None and not allowed.count):
            return results
        condition = "" if allowed is None else allowed.cached((self, "condition"), self._condition)
        limit = min(MAX_RESULTS, 1 + (k if self.rows <= self.items else ceil(2 * k * self.rows / self.items)))
        pending, incomplete = list(range(len(queries))), list[int]()
        while pending:
            retry = list[int]()
            nearest = self._nearest_rows(queries[pending], limit, condition)
            for query, (items, scores) in zip(pending, nearest, strict=True):
                full = _fill_best(results, query, items, scores, allowed)
                if len(items) < limit:
                    if not self._is_exact:
                        incomplete.append(query)  # a graph may miss some of the few rows that a filter allows
                # Rows beyond the limit may tie with the last item, unless the last returned row is clearly worse.
                elif not full or scores[-1] >= results.scores[query, k - 1] - 2 * TIE:
                    (incomplete if limit == MAX_RESULTS else retry).append(query)
            pending, limit = retry, min(2 * limit, MAX_RESULTS)
        for query in incomplete:
            scores = self._best_scores(queries[query], self._read_pages(condition))
            _fill_best(results, query, np.arange(self.items), scores, allowed)
        return results

    def score_items(self, query: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """See VectorIndex; reads the vectors of the items."""
        step = max(1, self._batch * self.items // max(1, self.rows))
        return self._best_scores(query, self._read_items(items, step))[items]

    def score_all_items(self, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """See VectorIndex; reads all vectors, which takes seconds where a search takes milliseconds."""
        return self._best_scores(query, self._read_pages(""))

    def first_vectors(self, items: NDArray[np.int64]) -> Vectors:
        """See VectorIndex; reads all rows of the items."""
        vectors = np.zeros((len(items), self.space.dim), np.float32)
        if len(items):
            rows = self._read(_list_condition("item", np.unique(items)))
            first = dict(zip(rows.items[::-1].tolist(), rows.vectors[::-1], strict=True))
            for position, item in enumerate(items.tolist()):
                if item in first:
                    vectors[position] = first[item]
        return vectors

    def item_rows(self, item: int) -> tuple[NDArray[np.int32], Vectors]:
        """See VectorIndex."""
        rows = self._read(f"item == {item}")
        return rows.labels, rows.vectors

    def best_labels(self, query: NDArray[np.float32], items: Sequence[int]) -> list[int | None]:
        """See VectorIndex."""
        if not items:
            return []
        rows = self._read(_list_condition("item", np.array(items)))
        order = np.argsort(rows.vectors @ query, kind="stable")  # the best row of an item comes last and overwrites
        best = dict(zip(rows.items[order].tolist(), rows.labels[order].tolist(), strict=True))
        return [best.get(item) for item in items]

    def _condition(self, allowed: ItemMask) -> str:
        """Return a mask as an expression: its own, or the shorter of the lists of allowed and excluded items."""
        if allowed.expression or allowed.count == self.items:
            return allowed.expression
        is_few = 2 * allowed.count < self.items
        return _list_condition("item", np.flatnonzero(allowed.mask == is_few), "in" if is_few else "not in")

    def _nearest_rows(
        self, queries: Vectors, limit: int, condition: str
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield for each query the items [m] and scores [m] of its nearest rows, best first; m < limit if all."""
        step = max(1, MAX_RESULTS // limit)
        for start in range(0, len(queries), step):
            with connect(self.uri, self.collection) as client:
                responses = client.search(
                    self.collection,
                    data=list(queries[start : start + step]),
                    filter=condition,
                    limit=limit,
                    output_fields=["item"],
                    search_params={"metric_type": "IP", "params": {"ef": max(MIN_EF, 2 * limit)}},
                    timeout=REQUEST_S,
                )
            for rows in responses:
                items = np.array([row["entity"]["item"] for row in rows], np.int64)
                yield items, np.array([row["distance"] for row in rows], np.float32)

    def _best_scores(self, query: NDArray[np.float32], pages: Iterable[StoredRows]) -> NDArray[np.float32]:
        """Return the best score of each item among the rows of some pages, [items]; -inf for an item without rows."""
        scores = np.full(self.items, -np.inf, np.float32)
        for page in pages:
            np.maximum.at(scores, page.items, page.vectors @ query)
        return scores

    def _read_items(self, items: NDArray[np.int64], step: int) -> Iterator[StoredRows]:
        """Read the rows of some items, of `step` items at once."""
        for start in range(0, len(items), step):
            yield self._read(_list_condition("item", items[start : start + step]))

    def _read(self, condition: str) -> StoredRows:
        """Read the rows that meet a condition in one call; for conditions that few rows meet."""
        with connect(self.uri, self.collection) as client:
            return self._stored_rows(client.query(self.collection, condition, FIELDS, timeout=REQUEST_S))

    def _read_pages(self, condition: str) -> Iterator[StoredRows]:
        """Read the rows that meet a condition, page by page."""
        with connect(self.uri, self.collection) as client:
            pages = client.query_iterator(
                self.collection, self._batch, filter=condition, output_fields=FIELDS, timeout=REQUEST_S
            )
            while page := pages.next():
                yield self._stored_rows(page)
            pages.close()

    def _stored_rows(self, entities: Iterable[Any]) -> StoredRows:
        ordered = sorted(entities, key=lambda entity: int(entity["row"]))
        return StoredRows(
            np.array([entity["item"] for entity in ordered], np.int64),
            np.array([entity["label"] for entity in ordered], np.int32),
            np.array([entity["vector"] for entity in ordered], np.float32).reshape(-1, self.space.dim),
        )


def build_collection(
    uri: str,
    collection: str,
    space: Space,
    owners: Owners,
    labels: Owners,
    items: int,
    vectors: Vectors,
    columns: pa.Table | None = None,
) -> MilvusIndex:
    """Create a collection of unit rows and open it; drops what was written if that fails.

    Args:
        uri: The address of the Milvus server, or a path that ends in `.db`.
        collection: The name of the new collection.
        space: The space of the vectors.
        owners: The item index of each row, [n], never decreasing, each below `items`.
        labels: A number of the caller for each row, [n].
        items: The number of items.
        vectors: The unit rows, [n, dim].
        columns: A row for each item, of strings, doubles, bools or nulls, that filter expressions may use.

    Raises:
        InvalidQuery: the arguments do not fit together, or a collection or an alias has that name already.
    """
    fit = len(owners) == len(labels) == len(vectors)
    if not fit or (len(owners) and ((np.diff(owners) < 0).any() or owners[0] < 0 or owners[-1] >= items)):
        message = f"owners must be as many as labels and vectors, must not decrease, and must be in 0..{items - 1}"
        raise InvalidQuery(message, "owners")
    if vectors.shape[1:] != (space.dim,):
        raise InvalidQuery(f"vectors have shape {list(vectors.shape)}, this space expects [n, {space.dim}]", "vectors")
    if columns is not None and columns.num_rows != items:
        raise InvalidQuery(f"columns have {columns.num_rows} rows, expected one for each of {items} items", "columns")
    with connect(uri, collection) as client:
        if client.has_collection(collection, timeout=REQUEST_S):
            message = f"collection {collection!r} exists at {redact_password(uri)}: choose another name"
            raise InvalidQuery(message, "collection")
        schema = _schema(space.dim, columns)
        client.create_collection(collection, schema=schema, consistency_level="Bounded", timeout=REQUEST_S)
    try:
        with connect(uri, collection) as client:
            for start in range(0, len(owners), _batch_rows(space.dim)):
                part = slice(start, start + _batch_rows(space.dim))
                entities = _entities(start, owners[part], labels[part], vectors[part], columns)
                client.insert(collection, entities, timeout=REQUEST_S)
            client.flush(collection, timeout=BUILD_S)
            # After all rows are there, so that the graph is built once, over sealed segments.
            index = client.prepare_index_params()
            index_type, parameters = ("FLAT", {}) if is_local(uri) else ("HNSW", GRAPH)
            index.add_index("vector", index_type=index_type, metric_type="IP", params=parameters)
            client.create_index(collection, index, timeout=BUILD_S)
        return open_collection(uri, collection, space, items, len(owners))
    except BaseException:
        with suppress(VectorIndexError):
            drop_collection(uri, collection)
        raise


def open_collection(uri: str, collection: str, space: Space, items: int, rows: int) -> MilvusIndex:
    """Open the index on a collection, or on the collection that an alias names at this moment.

    Args:
        uri: The address of the Milvus server, or a path that ends in `.db`.
        collection: The name of the collection or alias.
        space: The space of its vectors.
        items: The number of items.
        rows: The expected number of rows.

    Raises:
        IndexMissing: there is no such collection.
        IndexDamaged: it does not hold `rows` rows of this space's dimension.
    """
    with connect(uri, collection) as client:
        if not client.has_collection(collection, timeout=REQUEST_S):
            raise IndexMissing(f"there is no collection {collection!r} at {redact_password(uri)}", collection)
        description = client.describe_collection(collection, timeout=REQUEST_S)
        client.load_collection(collection, timeout=BUILD_S)
        # Strong: waits for all that was written, so that later searches need not.
        counted = client.query(collection, output_fields=["count(*)"], consistency_level="Strong", timeout=REQUEST_S)
    count = counted[0]["count(*)"]
    dim = {field["name"]: field["params"].get("dim") for field in description["fields"]}.get("vector")
    if (count, dim) != (rows, space.dim):
        location = f"{collection!r} at {redact_password(uri)}"
        message = f"collection {location} holds {count} vectors of {dim}, expected {rows} of {space.dim}"
        raise IndexDamaged(message, collection)
    return MilvusIndex(uri, description["collection_name"], space, items, rows)


def set_alias(uri: str, alias: str, collection: str) -> None:
    """Point an alias, new or existing, to a collection; raises IndexMissing if there is no such collection."""
    with connect(uri, collection) as client:
        exists = client.has_collection(alias, timeout=REQUEST_S)
        (client.alter_alias if exists else client.create_alias)(collection, alias, timeout=REQUEST_S)


def drop_collection(uri: str, collection: str) -> None:
    """Drop a collection that has no alias; does nothing if it does not exist."""
    with connect(uri, collection) as client:
        if client.has_collection(collection, timeout=REQUEST_S):
            client.drop_collection(collection, timeout=REQUEST_S)


def prune_collections(uri: str, prefix: str, needed: Collection[str]) -> None:
    """Drop the collections whose name starts with `prefix`, except those `needed`; also leftovers of killed builds."""
    with connect(uri, prefix) as client:
        for collection in client.list_collections(timeout=REQUEST_S):
            if collection.startswith(prefix) and collection not in needed:
                drop_collection(uri, collection)


def _schema(dim: int, columns: pa.Table | None) -> Any:
    library = import_pymilvus()
    types = library.DataType
    schema = library.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    schema.add_field("row", types.INT64, is_primary=True)
    schema.add_field("item", types.INT64)
    schema.add_field("label", types.INT32)
    schema.add_field("vector", types.FLOAT_VECTOR, dim=dim)
    column_types = {pa.string(): types.VARCHAR, pa.float64(): types.DOUBLE, pa.bool_(): types.BOOL}
    for column in () if columns is None else columns.schema:
        if column.type not in column_types or column.name in FIELDS:
            message = f"column {column.name} is {column.type}, expected string, double or bool, not named {FIELDS}"
            raise InvalidQuery(message, "columns")
        length = {"max_length": MAX_TEXT_BYTES} if column.type == pa.string() else {}
        schema.add_field(column.name, column_types[column.type], nullable=True, **length)
    return schema


def _entities(
    start: int, owners: Owners, labels: Owners, vectors: Vectors, columns: pa.Table | None
) -> list[dict[str, Any]]:
    """Return the rows from row `start` on in Milvus's format, each with the columns of its item."""
    values = [{}] * len(owners) if columns is None else columns.take(pa.array(owners)).to_pylist()
    rows = zip(owners.tolist(), labels.tolist(), np.asarray(vectors), values, strict=True)
    return [
        {"row": row, "item": item, "label": label, "vector": vector, **item_columns}
        for row, (item, label, vector, item_columns) in enumerate(rows, start)
    ]


def _fill_best(
    results: NearestItems,
    query: int,
    items: NDArray[np.int64],
    scores: NDArray[np.float32],
    allowed: ItemMask | None,
) -> bool:
    """Store the best allowed items of some rows as results of a query; returns whether there are k."""
    if allowed is not None:
        is_allowed = allowed.mask[items]
        items, scores = items[is_allowed], scores[is_allowed]
    scores, items = best_per_item(scores, items)
    order = top_k(scores, items, results.items.shape[1], TIE)
    results.fill(query, items[order], scores[order])
    return bool(results.counts[query] == results.items.shape[1])


def _list_condition(field: str, values: NDArray[np.int64], operator: str = "in") -> str:
    # As text, not as parameters of the expression, which milvus-lite does not support.
    return f"{field} {operator} [{','.join(map(str, values.tolist()))}]"


def _batch_rows(dim: int) -> int:
    return max(1, min(MAX_BATCH_ROWS, MAX_BATCH_BYTES // (4 * dim)))
