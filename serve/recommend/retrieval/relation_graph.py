"""Knowledge: what the shop itself says of its items: which goes with which, and what that implies for others.

From the table of relations (serve.recommend.retrieval.item_relations) two things are learned for each relation:

- **Links, propagated**: from an item along its links, those that lead to it, and theirs, by personalised PageRank with
  few steps (Haveliwala 2002), so that an item with few links has the neighbours of its neighbours; and, for less, what
  is linked to the items that shoppers go to from it, so that an item without any has some.
- **Implications of categories**: how many times as often items of one category are linked to those of another as a
  blind draw would have it. It holds for items without any link, new ones too.

A relation is a complement (what goes with an item: accessory, cross-sell), a substitute (what may be taken for it:
up-sell, alternative), or neither. Complements are shown to who has the item or puts it into the cart, substitutes to
who looks at it.
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
from serve.recommend.retrieval.item_relations import ItemRelations
from serve.recommend.retrieval.retrievers import FADE, RECENT, Few, ItemRenumbering, Items, Proposals, Scores
from serve.recommend.retrieval.user_history import UserHistory

STEPS, ONWARD = 4, 0.5  # of a walk; the share that goes on at each
BACKWARDS = 0.5  # what a link counts the other way
VISITED = 0.3  # what the links of what shoppers went to count beside an item's own
MOST = 200  # items reached that are kept of each
PRIOR = 0.1  # links that any two categories are taken to have
COMPLEMENTS = frozenset({"accessory", "accessory-of", "complement", "crosssell", "cross-sell", "spare-part", "bundle"})
SUBSTITUTES = frozenset({"substitute", "alternative", "upsell", "up-sell", "similar", "replacement"})
TAKEN = frozenset({KINDS.index("cart"), KINDS.index("purchase")})
FILE, ARRAYS = "knowledge.json", ("starts", "items", "scores")


def kind_of(relation: str) -> str:
    """complement, substitute or related."""
    name = relation.casefold().replace("_", "-")
    return "complement" if name in COMPLEMENTS else "substitute" if name in SUBSTITUTES else "related"


class RelationGraph:
    """Relations of n items. `reached` are the scores [n, n] of items from items by relation, `categories` [n] their
    category's number, `counts` [c, c] the links between categories by relation."""

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
        return sorted(self._reached)

    @classmethod
    def of(
        cls,
        relations: ItemRelations,
        ids: Sequence[str],
        categories: Sequence[str | None],
        visited: sparse.csr_array | None = None,
    ) -> "RelationGraph | None":
        """From the shop's table, and what shoppers went to [n, n]; None where it has no link between two items."""
        item_index = {item_id: place for place, item_id in enumerate(ids)}
        names: dict[str, int] = {}
        of_category = np.array([names.setdefault(name or "", len(names)) for name in categories], np.int32)
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
            reached[relation] = _propagated(links, visited)
            between = (of_category[pairs[:, 0]], of_category[pairs[:, 1]])
            counts[relation] = sparse.csr_array((ones, between), (len(names), len(names)))
        return cls(reached, of_category, counts) if reached else None

    def linked(self, relation: str, item: int) -> tuple[Items, Scores]:
        """The items reached from one by a relation, in rising order, and their scores, 1 the best."""
        table = self._reached[relation]
        part = slice(table.indptr[item], table.indptr[item + 1])
        return table.indices[part].astype(np.int64), table.data[part]

    def implied(self, relation: str, item: int) -> Scores:
        """How many times as often as by a blind draw each item's category is linked from this one's, its logarithm."""
        counts, categories = self._counts[relation], len(self._sizes)
        row = counts[[self._categories[item]], :].toarray()[0]
        often = (row + PRIOR) / (row.sum() + PRIOR * categories)
        blind = self._sizes / max(1, self._sizes.sum())
        implied: Scores = np.log(often / np.maximum(blind, 1e-9)).astype(np.float32)[self._categories]
        return implied

    @property
    def fingerprint(self) -> str:
        """Hash of all that is known."""
        digest = hashlib.blake2b(self._categories.tobytes(), digest_size=8)
        for relation in self.relations:
            table = self._reached[relation]
            digest.update(relation.encode() + table.indices.tobytes() + table.data.tobytes())
        return digest.hexdigest()

    def write(self, folder: Path) -> None:
        """Write it into a folder, which is made."""
        folder.mkdir(parents=True)
        np.save(folder / "categories.npy", self._categories)
        for place, relation in enumerate(self.relations):
            for kind, tables in (("reached", self._reached), ("counts", self._counts)):
                table = tables[relation]
                for name, values in zip(ARRAYS, (table.indptr, table.indices, table.data), strict=True):
                    np.save(folder / f"{kind}-{place}-{name}.npy", values)
        (folder / FILE).write_bytes(orjson.dumps({"relations": self.relations}))

    @classmethod
    def open(cls, folder: Path) -> "RelationGraph | None":
        """Open what `write` wrote, or None where nothing is known; raises Broken where it cannot be read."""
        if not folder.exists():
            return None
        try:
            relations = orjson.loads((folder / FILE).read_bytes())["relations"]
            categories = np.load(folder / "categories.npy", allow_pickle=False)
            size = {"reached": len(categories), "counts": int(categories.max(initial=-1)) + 1}
            tables: dict[str, dict[str, sparse.csr_array]] = {"reached": {}, "counts": {}}
            for place, relation in enumerate(relations):
                for kind, table in tables.items():
                    starts, items, scores = (
                        np.load(folder / f"{kind}-{place}-{name}.npy", allow_pickle=False) for name in ARRAYS
                    )
                    table[relation] = sparse.csr_array((scores, items, starts), (size[kind], size[kind]))
        except (OSError, ValueError, KeyError) as error:
            raise StoreUnavailable(f"{folder} cannot be read ({error}): build again", folder.name) from error
        return cls(tables["reached"], categories, tables["counts"])


def _propagated(links: sparse.csr_array, visited: sparse.csr_array | None) -> sparse.csr_array:
    """What each item reaches by links, and how easily, 1 the easiest; without itself."""
    both = sparse.csr_array(links + BACKWARDS * links.T)
    out = both.sum(axis=1)
    walk = sparse.csr_array(sparse.diags_array(1 / np.maximum(out, 1e-9)) @ both)
    here = sparse.eye_array(links.shape[0], format="csr", dtype=np.float32)
    found = here
    for _ in range(STEPS):
        found = _strongest(sparse.csr_array(ONWARD * (found @ walk) + (1 - ONWARD) * here))
    found = sparse.csr_array(found - sparse.diags_array(found.diagonal()))
    if visited is not None and len(visited.data):
        often = np.maximum(visited.sum(axis=1), 1e-9)
        by_others = sparse.csr_array(sparse.diags_array(VISITED / often) @ visited) @ found
        found = _strongest(sparse.csr_array(found + by_others))
        found = sparse.csr_array(found - sparse.diags_array(found.diagonal()))
    found.eliminate_zeros()
    best = np.maximum(found.max(axis=1).toarray().ravel(), 1e-9)
    scaled = sparse.csr_array(sparse.diags_array(1 / best) @ found).astype(np.float32)
    scaled.sort_indices()
    return scaled


def _strongest(table: sparse.csr_array) -> sparse.csr_array:
    """Each row's MOST greatest."""
    if not len(table.data) or np.diff(table.indptr).max() <= MOST:
        return table
    row = np.repeat(np.arange(table.shape[0]), np.diff(table.indptr))
    order = np.lexsort((-table.data, row))
    place = np.arange(len(order)) - table.indptr[row[order]]
    kept = np.sort(order[place < MOST])
    return sparse.csr_array((table.data[kept], (row[kept], table.indices[kept])), table.shape)


class RelationRetriever:
    """What goes with the shopper's last items by the shop's own table: complements of what was taken, else the rest."""

    def __init__(self, knowledge: RelationGraph, numbering: ItemRenumbering | None = None) -> None:
        self._knowledge, self._numbering = knowledge, numbering

    def ask(self, user: UserHistory) -> Proposals | None:
        liked = np.flatnonzero(user.weight > 0)[-RECENT:][::-1]
        found: list[tuple[Items, Scores]] = []
        for step, place in enumerate(liked.tolist()):
            item = int(user.item[place])
            if self._numbering is not None:
                item = int(self._numbering.before[item])
            wanted = "complement" if int(user.kind[place]) in TAKEN else "substitute"
            for relation in self._knowledge.relations if item >= 0 else ():
                if kind_of(relation) in (wanted, "related"):
                    items, scores = self._knowledge.linked(relation, item)
                    found.append((items, scores * np.float32(FADE**step)))
        if not found:
            return None
        every, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if self._numbering is not None:
            every = self._numbering.now[every]
            every, values = every[every >= 0], values[every >= 0]
        items, place = np.unique(every, return_inverse=True)
        return Few(items, np.bincount(place, weights=values).astype(np.float32)) if len(items) else None
