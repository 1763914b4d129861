"""Exposure: who is seen in answers, beside what there is and what is liked.

A place counts as its discount in NDCG does: the tenth is seen less than the first. The Gini coefficient is 0 where all
items are seen alike, and near 1 where a few are all that is seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Holdout
from embed.catalogue import Catalogue

K = 10
MAX_GROUPS = 8  # of a kind that are told one by one
BANDS = 4  # of prices, popularity and age
SELLERS = ("seller", "vendor", "merchant", "shop")
DAY = 86_400.0


@dataclass(frozen=True)
class Group:
    """A group's share of the items, of what was liked in the test, and of what is seen."""

    name: str
    items: float
    liked: float
    seen: float


@dataclass(frozen=True)
class Exposure:
    """How unevenly items are seen by system, and who is seen in answers as served, by kind of group."""

    gini: Mapping[str, float]
    groups: Mapping[str, Sequence[Group]]


def seen_of(ranked: NDArray[np.int64], items: int) -> NDArray[np.float64]:
    """How much each item is seen, [items], in the first ten of lists [m, DEEP], -1 for none."""
    shown = ranked[:, :K]
    worth = np.broadcast_to(1 / np.log2(np.arange(2, shown.shape[1] + 2)), shown.shape)
    there = shown >= 0
    return np.asarray(np.bincount(shown[there], weights=worth[there], minlength=items), np.float64)


def gini(values: NDArray[np.float64]) -> float:
    """The Gini coefficient of values [n], none negative; 0 where there is nothing."""
    ordered, n = np.sort(values), len(values)
    total = ordered.sum()
    if not n or total <= 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def exposure(
    ranked: Mapping[str, NDArray[np.int64]],
    served: str,
    test: Holdout,
    kinds: Mapping[str, Sequence[str | None]],
) -> Exposure:
    """Of lists by system, one of which is as `served`; `kinds` give each item's group, [items], None for none."""
    items = test.history.items
    liked = np.bincount(test.targets, minlength=items).astype(np.float64)
    seen = seen_of(ranked[served], items)
    return Exposure(
        {name: round(gini(seen_of(of, items)), 4) for name, of in ranked.items()},
        {kind: found for kind, of in kinds.items() if (found := _shares(of, liked, seen))},
    )


def kinds_of(
    catalogue: Catalogue, shoppers_of: NDArray[np.int64], first_seen: NDArray[np.float64], now: float
) -> dict[str, Sequence[str | None]]:
    """What items are told apart by: brand, seller, price, popularity, and age in the shop, each [items]."""
    sellers: list[str | None] = []
    for batch in catalogue.batches():
        for item in batch:
            named = (item.attributes.get(name) for name in SELLERS)
            sellers.append(next((values[0] for values in named if values), None))
    price = np.array([np.nan if value is None else value for value in catalogue.column("price").to_pylist()], float)
    return {
        "brand": catalogue.column("brand").to_pylist(),
        "seller": sellers,
        "price": _bands(price, "{:.6g} to {:.6g}"),
        "popularity": _bands(shoppers_of.astype(float), "{:.0f} to {:.0f} shoppers"),
        "age": _bands((now - first_seen) / DAY, "{:.0f} to {:.0f} days"),
    }


def _bands(values: NDArray[np.float64], named: str) -> list[str | None]:
    """Values in four bands of about as many items each; None for NaN, and where there are not two bands."""
    known = values[~np.isnan(values)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BANDS + 1))) if len(known) else np.empty(0)
    if len(edges) < 3:
        return [None] * len(values)
    names = [named.format(low, high) for low, high in pairwise(edges.tolist())]
    band = np.searchsorted(edges[1:-1], np.nan_to_num(values), side="right")
    return [None if np.isnan(value) else names[place] for value, place in zip(values, band.tolist(), strict=True)]


def _shares(of: Sequence[str | None], liked: NDArray[np.float64], seen: NDArray[np.float64]) -> list[Group]:
    """Each group's shares, the largest groups by themselves and the rest together."""
    names = sorted({name for name in of if name is not None})
    if len(names) < 2:
        return []
    number = {name: place for place, name in enumerate(names)}
    code = np.array([-1 if name is None else number[name] for name in of])
    there = code >= 0
    columns = [
        np.bincount(code[there], weights=weights[there], minlength=len(names))
        for weights in (np.ones(len(code)), liked, seen)
    ]
    shares = np.stack([column / max(column.sum(), 1e-12) for column in columns], axis=1)
    order = np.argsort(-shares[:, 0], kind="stable")
    shown = np.sort(order[:MAX_GROUPS]) if len(names) > MAX_GROUPS else np.arange(len(names))
    found = [Group(names[place], *shares[place].round(4).tolist()) for place in shown.tolist()]
    if len(names) > MAX_GROUPS:
        found.append(Group("others", *shares[order[MAX_GROUPS:]].sum(0).round(4).tolist()))
    return found
