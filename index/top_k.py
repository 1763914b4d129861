"""Select and order the best scores."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TIE = 1e-6  # cosines that differ by at most this are ties: float32 arithmetic cannot tell them apart
MAX_FULLY_SORTED = 256  # up to so many scores, sorting all is faster than selecting the best first
LOWEST = np.finfo(np.float32).min


def top_k(scores: NDArray[np.float32], items: NDArray[np.integer[Any]], k: int, tie: float = 0.0) -> NDArray[np.int64]:
    """Return the positions of the k best scores, best first; ties are ordered by item index.

    Args:
        scores: [m]; positions with a score of -inf are never returned.
        items: The item index of each score, [m].
        k: The number of positions to return at most.
        tie: A score ties with the best score of its tie if it is lower by at most this. Pass TIE for cosines, whose
            last bits depend on how the product was computed; 0 for other scores, which tie only if they are equal.

    Returns:
        At most k positions. No score comes after one that is lower by more than `tie`.
    """
    if len(scores) > max(4 * k, MAX_FULLY_SORTED):
        # More than k positions if the k-th ties; twice the tolerance, as float32 rounds the difference.
        threshold = np.partition(scores, -k)[-k] - 2 * tie
        near = np.flatnonzero(scores >= max(threshold, LOWEST))
        near = near[(-scores[near]).argsort(kind="stable")]
    else:
        near = (-scores).argsort(kind="stable")
    descending = scores[near]
    if len(near) and descending[-1] == -np.inf:
        near = near[: np.searchsorted(-descending, np.inf)]
        descending = scores[near]
    gaps = descending[:-1] - descending[1:]
    if len(gaps) and gaps.min() <= tie:
        near = near[np.lexsort((items[near], _number_ties(descending, gaps > tie, tie)))]
    order: NDArray[np.int64] = near[:k]
    return order


def _number_ties(descending: NDArray[np.float32], gaps: NDArray[np.bool_], tie: float) -> NDArray[np.int64]:
    """Number the ties among descending scores [m], 0 for the best, [m]; `gaps` [m - 1] are wider than `tie`.

    A tie starts at its best score and ends `tie` below it. It never continues through a chain of small gaps, which
    would put scores far apart into one tie.
    """
    starts = np.concatenate([[True], gaps])
    firsts = np.flatnonzero(starts)
    ends = np.append(firsts[1:], len(descending))
    exact = descending.astype(np.float64)  # differences of float32 values are exact in float64
    for chain in np.flatnonzero(exact[firsts] - exact[ends - 1] > tie).tolist():  # rare
        best = exact[firsts[chain]]
        for position in range(firsts[chain] + 1, ends[chain]):
            if best - exact[position] > tie:
                starts[position], best = True, exact[position]
    numbers: NDArray[np.int64] = starts.cumsum() - 1
    return numbers


def best_per_item(
    scores: NDArray[np.float32], items: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the best score of each item among rows [n] in any order, and these items in ascending order."""
    order = items.argsort(kind="stable")
    items = items[order]
    first = np.ones(len(items), np.bool_)
    first[1:] = items[1:] != items[:-1]
    starts = np.flatnonzero(first)
    return np.maximum.reduceat(scores[order], starts) if len(starts) else scores, items[starts]
