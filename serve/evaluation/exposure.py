"""Exposure: how unevenly items, and groups of items such as brands, are shown in recommendations.

A position counts by its discount in NDCG: the tenth counts less than the first. The Gini coefficient is 0 where all
items have the same exposure, and near 1 where a few items have all of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Holdout
from embed.catalogue import Catalogue
from serve.core.units import DAY

K = 10
MAX_GROUPS = 8  # of a kind that are listed; the others are summed up
BANDS = 4  # of prices, popularity and age
SELLERS = ("seller", "vendor", "merchant", "shop")


@dataclass(frozen=True)
class ExposureGroup:
    """A group's share of the items, of the likes in the test, and of the exposure."""

    name: str
    items: float
    liked: float
    seen: float


@dataclass(frozen=True)
class Exposure:
    """The Gini coefficient of each system, and the exposure of groups in recommendations as served, by kind."""

    gini: Mapping[str, float]
    groups: Mapping[str, Sequence[ExposureGroup]]


def item_exposure(ranked: NDArray[np.int64], items: int) -> NDArray[np.float64]:
    """Return the exposure of each item, [items], in the first ten of rankings [m, DEEP], -1 for none."""
    shown = ranked[:, :K]
    discounts = np.broadcast_to(1 / np.log2(np.arange(2, shown.shape[1] + 2)), shown.shape)
    is_item = shown >= 0
    return np.asarray(np.bincount(shown[is_item], weights=discounts[is_item], minlength=items), np.float64)


def gini(values: NDArray[np.float64]) -> float:
    """Return the Gini coefficient of values [n], none negative; 0 where all are zero."""
    ordered, n = np.sort(values), len(values)
    total = ordered.sum()
    if not n or total <= 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def measure_exposure(
    ranked: Mapping[str, NDArray[np.int64]],
    served: str,
    test: Holdout,
    groups: Mapping[str, Sequence[str | None]],
) -> Exposure:
    """Measure the exposure of items and groups.

    Args:
        ranked: the rankings [m, DEEP] of each system.
        served: the system whose groups are measured.
        test: the held-out interactions of the m users.
        groups: each item's group by kind, [items], None for none.
    """
    items = test.history.items
    liked = np.bincount(test.targets, minlength=items).astype(np.float64)
    seen = item_exposure(ranked[served], items)
    return Exposure(
        {name: round(gini(item_exposure(rankings, items)), 4) for name, rankings in ranked.items()},
        {kind: shares for kind, names in groups.items() if (shares := _shares(names, liked, seen))},
    )


def item_groups(
    catalogue: Catalogue, item_users: NDArray[np.int64], first_seen: NDArray[np.float64], now: float
) -> dict[str, Sequence[str | None]]:
    """Return each item's group, [items], by kind: brand, seller, price, popularity, and age in the shop.

    Args:
        catalogue: the catalogue of the items.
        item_users: how many users interacted with each item, [items].
        first_seen: when each item came into the shop (epoch seconds), [items].
        now: the time that ages are relative to, in epoch seconds.
    """
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
        "popularity": _bands(item_users.astype(float), "{:.0f} to {:.0f} users"),
        "age": _bands((now - first_seen) / DAY, "{:.0f} to {:.0f} days"),
    }


def _bands(values: NDArray[np.float64], label: str) -> list[str | None]:
    """Return the band of each value, of four with about as many items each; None for NaN, or for fewer than two."""
    known = values[~np.isnan(values)]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, BANDS + 1))) if len(known) else np.empty(0)
    if len(edges) < 3:
        return [None] * len(values)
    names = [label.format(low, high) for low, high in pairwise(edges.tolist())]
    bands = np.searchsorted(edges[1:-1], np.nan_to_num(values), side="right")
    return [None if np.isnan(value) else names[band] for value, band in zip(values, bands.tolist(), strict=True)]


def _shares(names: Sequence[str | None], liked: NDArray[np.float64], seen: NDArray[np.float64]) -> list[ExposureGroup]:
    """Return each group's shares, the largest groups one by one and the others together."""
    distinct = sorted({name for name in names if name is not None})
    if len(distinct) < 2:
        return []
    codes = {name: code for code, name in enumerate(distinct)}
    code = np.array([-1 if name is None else codes[name] for name in names])
    has_group = code >= 0
    columns = [
        np.bincount(code[has_group], weights=weights[has_group], minlength=len(distinct))
        for weights in (np.ones(len(code)), liked, seen)
    ]
    shares = np.stack([column / max(column.sum(), 1e-12) for column in columns], axis=1)
    order = np.argsort(-shares[:, 0], kind="stable")
    listed = np.sort(order[:MAX_GROUPS]) if len(distinct) > MAX_GROUPS else np.arange(len(distinct))
    groups = [ExposureGroup(distinct[group], *shares[group].round(4).tolist()) for group in listed.tolist()]
    if len(distinct) > MAX_GROUPS:
        groups.append(ExposureGroup("others", *shares[order[MAX_GROUPS:]].sum(0).round(4).tolist()))
    return groups
