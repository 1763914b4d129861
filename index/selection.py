"""A selection: which items may be found, worked out once and kept, so that a filter used again costs nothing again."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Made = TypeVar("Made")


class Selection:
    """`mask` [items] is true for the items that may be found; `count` is how many these are.

    `expression` is the same condition in the filter language of an engine that has one; empty where only the mask
    tells.
    Indexes keep beside it what they make of it: row bitmaps, lists that hold nothing allowed. Neither it nor its mask
    may change once it was searched with.
    """

    def __init__(self, mask: NDArray[np.bool_], expression: str = "") -> None:
        self.mask, self.expression = mask, expression
        self.count = int(np.count_nonzero(mask))
        self._made: dict[Any, Any] = {}

    def made_for(self, index: Any, make: Callable[["Selection"], Made]) -> Made:
        """What `index` makes of this selection, made at first use. Two threads may both make it; either is right."""
        made: Made | None = self._made.get(index)
        if made is None:
            made = self._made[index] = make(self)
        return made


class Selections:
    """The selections that were asked for last, by what they were made of."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, Selection] = OrderedDict()

    def get(self, key: bytes, make: Callable[[], Selection]) -> Selection:
        """The selection of `key`, made if it is not kept."""
        selection = self._kept.get(key)
        if selection is None:
            selection = make()
        self._kept[key] = selection
        self._kept.move_to_end(key)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return selection
