"""Mapping files: TOML that says which name means what; a name unknown is refused with the one likely meant."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embed.errors import BadInput, Missing


def read_toml(path: Path) -> dict[str, Any]:
    """What a mapping file says; raises Missing, or BadInput where it is not TOML."""
    if not path.is_file():
        raise Missing(f"there is no mapping {path}", "mapping")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} is not TOML: {error}", "mapping") from error


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
