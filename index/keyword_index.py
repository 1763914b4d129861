"""A keyword index: BM25 over numbered terms.

The weights are computed when the index is built, so that a search adds up a few ranges of two arrays. The files are
memory-mapped:

    terms.npy      uint64 [t], ascending  starts.npy  int64 [t + 1], where the postings of each term begin
    items.npy      int32 [p]              weights.npy float32 [p]
    statistics.json

A posting is a term in an item. The count of a term in an item may be a fraction, as words of a title count more than
those of a description (BM25F with one length: Robertson, Zaragoza, Taylor, "Simple BM25 extension to multiple weighted
fields", CIKM 2004). The inverse document frequency is Lucene's, which is never negative.
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
from index.errors import IndexDamaged

K1, B = 0.6, 0.4  # chosen on half of the queries of a shop of 53,000 titles; 1.2 and 0.75 are for longer texts
TermWeights = Mapping[int, float]  # of an item: term counts; of a query: the weight of each term


@dataclass(frozen=True)
class KeywordStatistics:
    """The number of items, the mean length of their texts in terms, the number of terms, and of postings."""

    items: int
    mean_length: float
    terms: int
    postings: int

    def weights(
        self, counts: NDArray[np.float32], lengths: NDArray[np.float32], frequencies: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Compute the BM25 weights of p postings, [p].

        Args:
            counts: The count of the term in the item, [p].
            lengths: The length of the item's text, [p].
            frequencies: The number of items that contain the term, [p].
        """
        rarity = np.log1p((self.items - frequencies + 0.5) / (frequencies + 0.5))
        length_factor = K1 * (1 - B + B * lengths / max(self.mean_length, 1e-6))
        return (rarity * counts * (K1 + 1) / (counts + length_factor)).astype(np.float32)


class KeywordIndex:
    """The keyword index of n items on disk; safe to use from several threads."""

    def __init__(
        self,
        statistics: KeywordStatistics,
        terms: NDArray[np.uint64],
        starts: NDArray[np.int64],
        items: NDArray[np.int32],
        weights: NDArray[np.float32],
    ) -> None:
        self.statistics = statistics
        self._terms, self._starts, self._items, self._weights = terms, starts, items, weights

    @property
    def items(self) -> int:
        """The number of items."""
        return self.statistics.items

    def scores(self, query: TermWeights) -> NDArray[np.float32]:
        """Sum over the query's terms their weight in each item times their weight in the query, [n]; 0 for no match."""
        scores = np.zeros(self.items, np.float32)
        for term, factor in query.items():
            postings = self._postings(term)
            scores[self._items[postings]] += np.float32(factor) * self._weights[postings]  # an item occurs once a term
        return scores

    def items_with_term(self, term: int) -> NDArray[np.int32]:
        """Return the items that contain a term."""
        return self._items[self._postings(term)]

    def document_frequency(self, term: int) -> int:
        """Return the number of items that contain a term."""
        postings = self._postings(term)
        return postings.stop - postings.start  # type: ignore[no-any-return]

    def _postings(self, term: int) -> slice:
        position = int(np.searchsorted(self._terms, np.uint64(term)))
        if position == len(self._terms) or int(self._terms[position]) != term:
            return slice(0, 0)
        return slice(int(self._starts[position]), int(self._starts[position + 1]))


class KeywordOverlay:
    """The postings of items added since the index was built, weighed by its statistics; grows while it is read."""

    def __init__(self, base: KeywordIndex) -> None:
        self._base = base
        self._postings: dict[int, list[tuple[int, float]]] = defaultdict(list)

    def append(self, item_index: int, counts: TermWeights, length: float) -> None:
        """Add an item; `item_index` counts from 0 and is greater than those before."""
        frequencies = np.array([max(1, self._base.document_frequency(term)) for term in counts], np.float32)
        weights = self._base.statistics.weights(
            np.array(list(counts.values()), np.float32),
            np.float32(length) * np.ones(len(counts), np.float32),
            frequencies,
        )
        for term, weight in zip(counts, weights.tolist(), strict=True):
            self._postings[term].append((item_index, weight))

    def scores(self, query: TermWeights, items: int) -> NDArray[np.float32]:
        """Score the first `items` items as KeywordIndex does, [items]."""
        scores = np.zeros(items, np.float32)
        for term, factor in query.items():
            for item_index, weight in self._postings.get(term, ()):
                if item_index < items:
                    scores[item_index] += factor * weight
        return scores

    def items_with_term(self, term: int, items: int) -> NDArray[np.int32]:
        """Return those of the first `items` items that contain a term."""
        return np.array([item_index for item_index, _ in self._postings.get(term, ()) if item_index < items], np.int32)


def write_keyword_index(folder: Path, texts: Iterable[tuple[TermWeights, float]]) -> KeywordStatistics:
    """Write the keyword index of items, by item index; `texts` has the term counts and the length of each item."""
    terms, items, counts, text_lengths = array("Q"), array("i"), array("f"), array("f")
    for item_index, (term_counts, length) in enumerate(texts):
        terms.extend(term_counts)
        counts.extend(term_counts.values())
        items.extend([item_index] * len(term_counts))
        text_lengths.append(length)
    posting_terms = np.array(terms, np.uint64)
    order = np.argsort(posting_terms, kind="stable")
    distinct, starts, frequencies = np.unique(posting_terms[order], return_index=True, return_counts=True)
    posting_items = np.array(items, np.int32)[order]
    lengths = np.array(text_lengths, np.float32)
    mean_length = float(lengths.mean()) if len(lengths) else 0.0
    statistics = KeywordStatistics(len(lengths), mean_length, len(distinct), len(posting_terms))
    weights = statistics.weights(
        np.array(counts, np.float32)[order],
        lengths[posting_items],
        np.repeat(frequencies, frequencies).astype(np.float32),
    )
    folder.mkdir(parents=True)
    np.save(folder / "terms.npy", distinct)
    np.save(folder / "starts.npy", np.append(starts, len(posting_terms)).astype(np.int64))
    np.save(folder / "items.npy", posting_items)
    np.save(folder / "weights.npy", weights)
    (folder / "statistics.json").write_text(json.dumps(asdict(statistics)))
    return statistics


def open_keyword_index(folder: Path) -> KeywordIndex:
    """Memory-map a keyword index; raises IndexMissing or IndexDamaged if it cannot be read."""
    try:
        statistics = KeywordStatistics(**json.loads((folder / "statistics.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise IndexDamaged(f"the keyword index {folder} cannot be read ({error}): build again", folder.name) from error
    return KeywordIndex(
        statistics,
        load_array(folder / "terms.npy", np.uint64, (statistics.terms,)),
        load_array(folder / "starts.npy", np.int64, (statistics.terms + 1,)),
        load_array(folder / "items.npy", np.int32, (statistics.postings,)),
        load_array(folder / "weights.npy", np.float32, (statistics.postings,)),
    )
