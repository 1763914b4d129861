"""Facets: how many of the items that match have each value of a column or an attribute."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.catalogue import Catalogue, Item
from serve.core.errors import BadRequest

COLUMNS = ("category", "brand", "domain", "currency", "available")
PRICE = "price"
MAX_VALUES = 50
RANGES = 5  # of prices, with about as many items in each


@dataclass(frozen=True)
class Facet:
    """m times a value of an item: the item's row [m] and the value's place [m] in `values`."""

    values: Sequence[Any]
    rows: NDArray[np.int64]
    codes: NDArray[np.int64]


def facet_of(catalogue: Catalogue, name: str) -> Facet:
    """The values of a column or an attribute over a catalogue; raises BadRequest where no item has any."""
    places: dict[Any, int] = {}
    rows, codes = [], []
    for row, values in enumerate(_values(catalogue, name)):
        for value in values:
            rows.append(row)
            codes.append(places.setdefault(value, len(places)))
    if not places:
        raise BadRequest(
            f"facets: no item has {name!r}: name one of {', '.join(COLUMNS)}, {PRICE} or an attribute", "facets"
        )
    return Facet(list(places), np.array(rows, np.int64), np.array(codes, np.int64))


def counted(facet: Facet, name: str, chosen: NDArray[np.bool_], changed: Sequence[Item]) -> list[dict[str, Any]]:
    """The values of `chosen` rows of a catalogue, and of items that are not as it has them, the most frequent first.

    Prices come in ranges of about as many items each, the lowest first.
    """
    counts = np.bincount(facet.codes[chosen[facet.rows]], minlength=len(facet.values))
    found = Counter({facet.values[place]: int(counts[place]) for place in np.flatnonzero(counts).tolist()})
    found.update(value for item in changed for value in _of(item, name))
    if name == PRICE:
        return _ranges(found)
    best = sorted(found.items(), key=lambda each: (-each[1], str(each[0])))[:MAX_VALUES]
    return [{"value": value, "count": count} for value, count in best]


def _values(catalogue: Catalogue, name: str) -> Any:
    if name in (*COLUMNS, PRICE):
        for chunk in catalogue.column(name).chunks:
            yield from ([] if value is None else [value] for value in chunk.to_pylist())
        return
    for chunk in catalogue.column("attributes").chunks:
        yield from (dict(of or ()).get(name) or () for of in chunk.to_pylist())


def _of(item: Item, name: str) -> Sequence[Any]:
    if name in (*COLUMNS, PRICE):
        value = getattr(item, name)
        return () if value is None else (value,)
    return item.attributes.get(name, ())


def _ranges(found: "Counter[float]") -> list[dict[str, Any]]:
    prices = np.repeat(np.array(sorted(found)), [found[price] for price in sorted(found)])
    if not len(prices):
        return []
    edges = np.unique(np.quantile(prices, np.linspace(0, 1, RANGES + 1), method="lower"))
    if len(edges) == 1:
        return [{"from": float(edges[0]), "to": float(edges[0]), "count": len(prices)}]
    starts = np.searchsorted(prices, edges[:-1])
    ends = np.append(starts[1:], len(prices))
    return [
        {"from": float(prices[start]), "to": float(prices[end - 1]), "count": int(end - start)}
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        if end > start
    ]
