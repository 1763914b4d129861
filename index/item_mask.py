"""Sets of items that a search may return, with what indexes derive from them, so that a repeated filter is fast."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class ItemMask:
    """`mask` [items] is true for the items that a search may return; `count` is their number.

    `expression` is the same condition in the filter language of an engine that has one; it is empty if only the mask
    expresses the condition. Indexes cache what they derive from the mask: row bitmaps, or which inverted lists hold an
    allowed row. Neither the object nor its mask may change after the first search.
    """

    def __init__(self, mask: NDArray[np.bool_], expression: str = "") -> None:
        self.mask, self.expression = mask, expression
        self.count = int(np.count_nonzero(mask))
        self._cache: dict[Any, Any] = {}

    def cached(self, key: Any, make: Callable[["ItemMask"], T]) -> T:
        """Return the value cached under `key`; `make` computes it on first use.

        Two threads may both compute it; the values are equal.
        """
        value: T | None = self._cache.get(key)
        if value is None:
            value = self._cache[key] = make(self)
        return value


class ItemMaskCache:
    """The most recently used item masks, by a key that the caller derives from the filter."""

    def __init__(self, size: int = 64) -> None:
        self._size = size
        self._masks: OrderedDict[bytes, ItemMask] = OrderedDict()

    def get(self, key: bytes, make: Callable[[], ItemMask]) -> ItemMask:
        """Return the mask of `key`; `make` creates it if it is not cached."""
        mask = self._masks.get(key)
        if mask is None:
            mask = make()
        self._masks[key] = mask
        self._masks.move_to_end(key)
        while len(self._masks) > self._size:
            self._masks.popitem(last=False)
        return mask
