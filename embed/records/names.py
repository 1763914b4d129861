"""Names of columns and settings: compared as people write them, and refused with what was likely meant."""

import difflib
from collections.abc import Iterable

from embed.errors import BadInput


def plain_name(column: str) -> str:
    """A column's name as names are compared."""
    return column.strip().lower().replace(" ", "_").removeprefix("g:")


def known_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Raise BadInput, saying `where`, for a name that is not among the known ones."""
    for key in given:
        if key not in (known := list(known)):
            close = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise BadInput(f"{where} does not know {key!r}; {hint}", key)
