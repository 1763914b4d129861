"""BM25 over terms that are numbers: which items hold a term, and what it says of each.

Weights are made when the index is, so that a search adds up a few stretches of two arrays. They stay on disk, mapped:

    terms.npy      uint64 [t], rising     starts.npy  int64 [t + 1], where the postings of each term begin
    items.npy      int32 [p]              weights.npy float32 [p]
    statistics.json

An item's count of a term may be a fraction, as words of a title count for more than those of a description (BM25F with
one length: Robertson, Zaragoza, Taylor, "Simple BM25 extension to multiple weighted fields", CIKM 2004). Idf is that of
Lucene, which is never negative.
"""

import json
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index.array_file import load_array
from index.errors import Damaged

K1, B = 0.6, 0.4  # chosen on half of the queries of a shop of 53,000 titles; 1.2 and 0.75 are for longer texts
Counts = Mapping[int, float]


@dataclass(frozen=True)
class Statistics:
    """How many items there are, how long their texts are in the mean, and how many terms and postings they have."""

    items: int
    mean_length: float
    terms: int
    postings: int

    def weights(
        self, counts: NDArray[np.float32], lengths: NDArray[np.float32], frequencies: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """BM25 of p postings: a term's count in the item, the item's length, and how many items hold the term, [p]."""
        rarity = np.log1p((self.items - frequencies + 0.5) / (frequencies + 0.5))
        lengthened = K1 * (1 - B + B * lengths / max(self.mean_length, 1e-6))
        return (rarity * counts * (K1 + 1) / (counts + lengthened)).astype(np.float32)


class LexicalIndex:
    """What is on disk of n items; safe in several threads."""

    def __init__(
        self,
        statistics: Statistics,
        terms: NDArray[np.uint64],
        starts: NDArray[np.int64],
        items: NDArray[np.int32],
        weights: NDArray[np.float32],
    ) -> None:
        self.statistics = statistics
        self._terms, self._starts, self._items, self._weights = terms, starts, items, weights

    @property
    def items(self) -> int:
        return self.statistics.items

    def scores(self, wanted: Counts) -> NDArray[np.float32]:
        """The sum of the weights of the wanted terms, each times how much it is wanted, [n]; 0 for who has none."""
        scores = np.zeros(self.items, np.float32)
        for term, much in wanted.items():
            part = self._of(term)
            scores[self._items[part]] += np.float32(much) * self._weights[part]  # an item stands in each once
        return scores

    def holding(self, term: int) -> NDArray[np.int32]:
        """The items that hold a term."""
        return self._items[self._of(term)]

    def frequency(self, term: int) -> int:
        """How many items hold a term."""
        part = self._of(term)
        return part.stop - part.start  # type: ignore[no-any-return]

    def _of(self, term: int) -> slice:
        at = int(np.searchsorted(self._terms, np.uint64(term)))
        if at == len(self._terms) or int(self._terms[at]) != term:
            return slice(0, 0)
        return slice(int(self._starts[at]), int(self._starts[at + 1]))


class AddedTexts:
    """Items that came after the index was made, weighed as if it knew them; grows, and is read meanwhile."""

    def __init__(self, base: LexicalIndex) -> None:
        self._base = base
        self._postings: dict[int, list[tuple[int, float]]] = defaultdict(list)

    def append(self, number: int, counts: Counts, length: float) -> None:
        """The item with a number, from 0, greater than those before."""
        frequencies = np.array([max(1, self._base.frequency(term)) for term in counts], np.float32)
        weights = self._base.statistics.weights(
            np.array(list(counts.values()), np.float32),
            np.float32(length) * np.ones(len(counts), np.float32),
            frequencies,
        )
        for term, weight in zip(counts, weights.tolist(), strict=True):
            self._postings[term].append((number, weight))

    def scores(self, wanted: Counts, items: int) -> NDArray[np.float32]:
        """As those of an index, for the first `items`."""
        scores = np.zeros(items, np.float32)
        for term, much in wanted.items():
            for number, weight in self._postings.get(term, ()):
                if number < items:
                    scores[number] += much * weight
        return scores

    def holding(self, term: int, items: int) -> NDArray[np.int32]:
        """Those of the first `items` that hold a term."""
        return np.array([number for number, _ in self._postings.get(term, ()) if number < items], np.int32)


def write_lexical(folder: Path, texts: Iterable[tuple[Counts, float]]) -> Statistics:
    """Write the index of items, each by the counts of its terms and its length, in the order of their numbers."""
    terms, items, counts, long = array("Q"), array("i"), array("f"), array("f")
    for number, (of, length) in enumerate(texts):
        terms.extend(of)
        counts.extend(of.values())
        items.extend([number] * len(of))
        long.append(length)
    every = np.array(terms, np.uint64)
    order = np.argsort(every, kind="stable")
    known, starts, frequencies = np.unique(every[order], return_index=True, return_counts=True)
    of_items = np.array(items, np.int32)[order]
    lengths = np.array(long, np.float32)
    mean_length = float(lengths.mean()) if len(lengths) else 0.0
    statistics = Statistics(len(lengths), mean_length, len(known), len(every))
    weights = statistics.weights(
        np.array(counts, np.float32)[order], lengths[of_items], np.repeat(frequencies, frequencies).astype(np.float32)
    )
    folder.mkdir(parents=True)
    np.save(folder / "terms.npy", known)
    np.save(folder / "starts.npy", np.append(starts, len(every)).astype(np.int64))
    np.save(folder / "items.npy", of_items)
    np.save(folder / "weights.npy", weights)
    (folder / "statistics.json").write_text(json.dumps(asdict(statistics)))
    return statistics


def open_lexical(folder: Path) -> LexicalIndex:
    """Open an index, mapped; raises Missing or Damaged where it cannot be read."""
    try:
        statistics = Statistics(**json.loads((folder / "statistics.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise Damaged(f"the lexical index {folder} cannot be read ({error}): build again", folder.name) from error
    return LexicalIndex(
        statistics,
        load_array(folder / "terms.npy", np.uint64, (statistics.terms,)),
        load_array(folder / "starts.npy", np.int64, (statistics.terms + 1,)),
        load_array(folder / "items.npy", np.int32, (statistics.postings,)),
        load_array(folder / "weights.npy", np.float32, (statistics.postings,)),
    )
