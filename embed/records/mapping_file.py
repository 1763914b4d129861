"""Reads mapping files (TOML) and checks their names; an unknown name is refused with a suggestion."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from embed.errors import BadInput, Missing


def read_toml(path: Path) -> dict[str, Any]:
    """Read a mapping file; raises Missing, or BadInput if it is not valid TOML."""
    if not path.is_file():
        raise Missing(f"mapping file {path} does not exist", "mapping")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} is not valid TOML: {error}", "mapping") from error


def normalize_name(column: str) -> str:
    """Return a column's name in the form in which names are compared."""
    return column.strip().lower().replace(" ", "_").removeprefix("g:")


def check_names(names: Iterable[str], valid: Iterable[str], where: str) -> None:
    """Raise BadInput, naming the place `where`, for a name that is not valid."""
    valid = list(valid)
    for name in names:
        if name not in valid:
            close = difflib.get_close_matches(name, valid, 1)
            hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(valid)}"
            raise BadInput(f"{where}: unknown name {name!r}; {hint}", name)
