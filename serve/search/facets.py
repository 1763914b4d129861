"""Facets: how many matching items have each value of a column or an attribute."""

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
PRICE_RANGES = 5  # with about equally many items


@dataclass(frozen=True)
class Facet:
    """m pairs of an item and a value: the item's row [m], and the value's index [m] in `values`."""

    values: Sequence[Any]
    rows: NDArray[np.int64]
    codes: NDArray[np.int64]


def build_facet(catalogue: Catalogue, name: str) -> Facet:
    """Collect the values of a column or an attribute; raises BadRequest if no item has any."""
    codes_of: dict[Any, int] = {}
    rows, codes = [], []
    for row, values in enumerate(_column_values(catalogue, name)):
        for value in values:
            rows.append(row)
            codes.append(codes_of.setdefault(value, len(codes_of)))
    if not codes_of:
        raise BadRequest(
            f"facet {name!r} has no values: use one of {', '.join(COLUMNS)}, {PRICE} or an attribute", "facets"
        )
    return Facet(list(codes_of), np.array(rows, np.int64), np.array(codes, np.int64))


def count_facet(facet: Facet, name: str, chosen: NDArray[np.bool_], changed: Sequence[Item]) -> list[dict[str, Any]]:
    """Count the values of the `chosen` rows of a catalogue and of the `changed` items, the most frequent first.

    Prices are counted in ranges of about equally many items, the lowest first.
    """
    counts = np.bincount(facet.codes[chosen[facet.rows]], minlength=len(facet.values))
    totals = Counter({facet.values[code]: int(counts[code]) for code in np.flatnonzero(counts).tolist()})
    totals.update(value for item in changed for value in _item_values(item, name))
    if name == PRICE:
        return _count_price_ranges(totals)
    best = sorted(totals.items(), key=lambda each: (-each[1], str(each[0])))[:MAX_VALUES]
    return [{"value": value, "count": count} for value, count in best]


def _column_values(catalogue: Catalogue, name: str) -> Any:
    if name in (*COLUMNS, PRICE):
        for chunk in catalogue.column(name).chunks:
            yield from ([] if value is None else [value] for value in chunk.to_pylist())
        return
    for chunk in catalogue.column("attributes").chunks:
        yield from (dict(of or ()).get(name) or () for of in chunk.to_pylist())


def _item_values(item: Item, name: str) -> Sequence[Any]:
    if name in (*COLUMNS, PRICE):
        value = getattr(item, name)
        return () if value is None else (value,)
    return item.attributes.get(name, ())


def _count_price_ranges(totals: "Counter[float]") -> list[dict[str, Any]]:
    prices = np.repeat(np.array(sorted(totals)), [totals[price] for price in sorted(totals)])
    if not len(prices):
        return []
    edges = np.unique(np.quantile(prices, np.linspace(0, 1, PRICE_RANGES + 1), method="lower"))
    if len(edges) == 1:
        return [{"from": float(edges[0]), "to": float(edges[0]), "count": len(prices)}]
    starts = np.searchsorted(prices, edges[:-1])
    ends = np.append(starts[1:], len(prices))
    return [
        {"from": float(prices[start]), "to": float(prices[end - 1]), "count": int(end - start)}
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        if end > start
    ]
