"""Relation graph: what the shop itself states about its items, and what that implies for other items.

For each relation of the table (serve.recommend.retrieval.item_relations) two things are computed:

- **Propagated links**: from an item along its links, the links to it, and theirs, by personalised PageRank with few
  steps (Haveliwala 2002), so that an item with few links gets the neighbours of its neighbours. With less weight, the
  links of the items that users go to from it are added, so that an item without links gets some.
- **Category implications**: how many times as often items of one category are linked to items of another as a random
  draw would link them. This also holds for items without links, such as new ones.

A relation is a complement (goes with an item: accessory, cross-sell), a substitute (can replace it: up-sell,
alternative), or neither. Complements are recommended after a cart or purchase event, substitutes after other events.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray
from scipy import sparse

from embed.behaviour.interactions import KINDS
from serve.core.errors import StoreUnavailable
from serve.recommend.feature_groups import RELATIONS
from serve.recommend.retrieval.item_relations import ItemRelations
from serve.recommend.retrieval.retriever import (
    FADE,
    RECENT,
    ItemIndexMapping,
    Items,
    RetrievalContext,
    Retriever,
    RetrieverResult,
    RetrieverSpec,
    Scores,
)
from serve.recommend.retrieval.retriever_results import SparseResult
from serve.recommend.retrieval.user_history import UserHistory

STEPS, CONTINUE = 4, 0.5  # steps of a walk, and the share that continues at each
BACKWARDS = 0.5  # weight of a link in the other direction
COVISITED = 0.3  # weight of the links of co-visited items relative to an item's own
MAX_REACHED = 200  # items that are stored for each item
PRIOR = 0.1  # links that are assumed between any two categories
COMPLEMENTS = frozenset({"accessory", "accessory-of", "complement", "crosssell", "cross-sell", "spare-part", "bundle"})
SUBSTITUTES = frozenset({"substitute", "alternative", "upsell", "up-sell", "similar", "replacement"})
CART_OR_PURCHASE = frozenset({KINDS.index("cart"), KINDS.index("purchase")})
FILE, ARRAYS = "knowledge.json", ("starts", "items", "scores")


def relation_kind(relation: str) -> str:
    """Return `complement`, `substitute` or `related`."""
    name = relation.casefold().replace("_", "-")
    return "complement" if name in COMPLEMENTS else "substitute" if name in SUBSTITUTES else "related"


class RelationGraph:
    """The relations of n items.

    Attributes:
        reached: By relation the scores [n, n] of items, a row for each item that links start from.
        categories: The category index [n] of each item.
        counts: By relation the number of links [c, c] between categories.
    """

    def __init__(
        self,
        reached: Mapping[str, sparse.csr_array],
        categories: NDArray[np.int32],
        counts: Mapping[str, sparse.csr_array],
    ) -> None:
        self._reached, self._categories, self._counts = reached, categories, counts
        self._sizes = np.bincount(categories, minlength=int(categories.max(initial=-1)) + 1)

    @property
    def relations(self) -> list[str]:
        """The names of the relations, sorted."""
        return sorted(self._reached)

    @classmethod
    def build(
        cls,
        relations: ItemRelations,
        ids: Sequence[str],
        categories: Sequence[str | None],
        covisited: sparse.csr_array | None = None,
    ) -> "RelationGraph | None":
        """Build the graph from the shop's table and the co-visitation matrix [n, n].

        Returns None if the table has no link between two items.
        """
        item_index = {item_id: row for row, item_id in enumerate(ids)}
        names: dict[str, int] = {}
        category_of = np.array([names.setdefault(name or "", len(names)) for name in categories], np.int32)
        reached, counts = {}, {}
        for relation, table in relations.related.items():
            pairs = np.array(
                [
                    (item_index[one], item_index[other])
                    for one, others in table.items()
                    if one in item_index
                    for other in others
                    if other in item_index and other != one
                ],
                np.int64,
            ).reshape(-1, 2)
            if not len(pairs):
                continue
            ones, shape = np.ones(len(pairs), np.float32), (len(ids), len(ids))
            links = sparse.csr_array((ones, (pairs[:, 0], pairs[:, 1])), shape)
            links.data = np.minimum(links.data, 1)
            reached[relation] = _propagate(links, covisited)
            between = (category_of[pairs[:, 0]], category_of[pairs[:, 1]])
            counts[relation] = sparse.csr_array((ones, between), (len(names), len(names)))
        return cls(reached, category_of, counts) if reached else None

    def linked(self, relation: str, item: int) -> tuple[Items, Scores]:
        """Return the items linked to one by a relation, in rising order, and their scores; the best score is 1."""
        table = self._reached[relation]
        part = slice(table.indptr[item], table.indptr[item + 1])
        return table.indices[part].astype(np.int64), table.data[part]

    def implied(self, relation: str, item: int) -> Scores:
        """Return the log of how many times as often as by a random draw this category links to each item's, [n]."""
        counts, categories = self._counts[relation], len(self._sizes)
        row = counts[[self._categories[item]], :].toarray()[0]
        frequency = (row + PRIOR) / (row.sum() + PRIOR * categories)
        random = self._sizes / max(1, self._sizes.sum())
        implied: Scores = np.log(frequency / np.maximum(random, 1e-9)).astype(np.float32)[self._categories]
        return implied

    @property
    def fingerprint(self) -> str:
        """Hash of the links."""
        digest = hashlib.blake2b(self._categories.tobytes(), digest_size=8)
        for relation in self.relations:
            table = self._reached[relation]
            digest.update(relation.encode() + table.indices.tobytes() + table.data.tobytes())
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """Write the graph into a new folder."""
        folder.mkdir(parents=True)
        np.save(folder / "categories.npy", self._categories)
        for number, relation in enumerate(self.relations):
            for kind, tables in (("reached", self._reached), ("counts", self._counts)):
                table = tables[relation]
                for name, values in zip(ARRAYS, (table.indptr, table.indices, table.data), strict=True):
                    np.save(folder / f"{kind}-{number}-{name}.npy", values)
        (folder / FILE).write_bytes(orjson.dumps({"relations": self.relations}))

    @classmethod
    def open(cls, folder: Path) -> "RelationGraph | None":
        """Open what `write` wrote; None if the folder does not exist. Raises StoreUnavailable if it cannot be read."""
        if not folder.exists():
            return None
        try:
            relations = orjson.loads((folder / FILE).read_bytes())["relations"]
            categories = np.load(folder / "categories.npy", allow_pickle=False)
            size = {"reached": len(categories), "counts": int(categories.max(initial=-1)) + 1}
            tables: dict[str, dict[str, sparse.csr_array]] = {"reached": {}, "counts": {}}
            for number, relation in enumerate(relations):
                for kind, table in tables.items():
                    starts, items, scores = (
                        np.load(folder / f"{kind}-{number}-{name}.npy", allow_pickle=False) for name in ARRAYS
                    )
                    table[relation] = sparse.csr_array((scores, items, starts), (size[kind], size[kind]))
        except (OSError, ValueError, KeyError) as error:
            raise StoreUnavailable(f"{folder} cannot be read ({error}): build again", folder.name) from error
        return cls(tables["reached"], categories, tables["counts"])


def _propagate(links: sparse.csr_array, covisited: sparse.csr_array | None) -> sparse.csr_array:
    """Return what each item reaches by links, without itself, and how easily; the easiest scores 1."""
    both = sparse.csr_array(links + BACKWARDS * links.T)
    out = both.sum(axis=1)
    walk = sparse.csr_array(sparse.diags_array(1 / np.maximum(out, 1e-9)) @ both)
    start = sparse.eye_array(links.shape[0], format="csr", dtype=np.float32)
    reached = start
    for _ in range(STEPS):
        reached = _strongest(sparse.csr_array(CONTINUE * (reached @ walk) + (1 - CONTINUE) * start))
    reached = sparse.csr_array(reached - sparse.diags_array(reached.diagonal()))
    if covisited is not None and len(covisited.data):
        visits = np.maximum(covisited.sum(axis=1), 1e-9)
        by_others = sparse.csr_array(sparse.diags_array(COVISITED / visits) @ covisited) @ reached
        reached = _strongest(sparse.csr_array(reached + by_others))
        reached = sparse.csr_array(reached - sparse.diags_array(reached.diagonal()))
    reached.eliminate_zeros()
    best = np.maximum(reached.max(axis=1).toarray().ravel(), 1e-9)
    scaled = sparse.csr_array(sparse.diags_array(1 / best) @ reached).astype(np.float32)
    scaled.sort_indices()
    return scaled


def _strongest(table: sparse.csr_array) -> sparse.csr_array:
    """Return the MAX_REACHED largest entries of each row."""
    if not len(table.data) or np.diff(table.indptr).max() <= MAX_REACHED:
        return table
    row = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    order = np.lexsort((-table.data, row))
    rank = np.arange(len(order)) - table.indptr[row[order]]
    largest = np.sort(order[rank < MAX_REACHED])
    return sparse.csr_array((table.data[largest], (row[largest], table.indices[largest])), table.shape)


class RelationRetriever:
    """Returns what goes with the user's last items by the shop's own table.

    These are complements of items that were put into the cart or bought, substitutes of the others, and for both the
    relations that are neither.
    """

    def __init__(self, graph: RelationGraph, index_mapping: ItemIndexMapping | None = None) -> None:
        self._graph, self._index_mapping = graph, index_mapping

    def retrieve(self, user: UserHistory) -> RetrieverResult | None:
        liked = np.flatnonzero(user.weight > 0)[-RECENT:][::-1]
        parts: list[tuple[Items, Scores]] = []
        for step, row in enumerate(liked.tolist()):
            item = int(user.item[row])
            if self._index_mapping is not None:
                item = int(self._index_mapping.to_release[item])
            kind = "complement" if int(user.kind[row]) in CART_OR_PURCHASE else "substitute"
            for relation in self._graph.relations if item >= 0 else ():
                if relation_kind(relation) in (kind, "related"):
                    items, scores = self._graph.linked(relation, item)
                    parts.append((items, scores * np.float32(FADE**step)))
        if not parts:
            return None
        linked, values = (np.concatenate(part) for part in zip(*parts, strict=True))
        if self._index_mapping is not None:
            linked = self._index_mapping.to_snapshot[linked]
            linked, values = linked[linked >= 0], values[linked >= 0]
        items, group = np.unique(linked, return_inverse=True)
        return SparseResult(items, np.bincount(group, weights=values).astype(np.float32)) if len(items) else None


def _build(context: RetrievalContext) -> Retriever | None:
    graph = context.behaviour.knowledge
    return None if graph is None else RelationRetriever(graph, context.index_mapping)


SPEC = RetrieverSpec(
    "knowledge", _build, RELATIONS, RELATIONS.wording, depth_share=0.25, weight=4.0, needs_relations=True
)
