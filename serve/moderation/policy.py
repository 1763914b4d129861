"""Content policy: items that may not be shown in any response, each with the reason.

    words = ["replica", "hair straightener"]  # whole words or phrases, in any text of an item; case is ignored
    categories = ["Weapons"]                  # the category and all below it; "Weapons/" means the same
    items = ["SNK-0007"]                      # hidden by hand
    allow = ["BPK-0003"]                      # shown in spite of the other lists

These lines are in `review.toml` in the store. A change takes effect in every process within a second. An image
classifier, a function of the shop named by `[review] classifier = "module:function"`, judges every image once (see
serve.moderation.image_classifier); the items that it hides are in `review/refused.json`.
"""

import logging
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from embed.durable import file_stamp
from serve.core.errors import BadRequest

FILE = "review.toml"
REFUSED_FILE = Path("review") / "refused.json"
TEXTS = ("title", "description", "brand", "category")
_log = logging.getLogger(__name__)
FileStamp = tuple[int, int, int] | None

_Word = Annotated[str, Field(min_length=1, max_length=200)]


class BlockList(BaseModel):
    """The content of `review.toml`; see the module docstring."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: Annotated[list[_Word], Field(max_length=10_000)] = []
    categories: Annotated[list[_Word], Field(max_length=10_000)] = []
    items: Annotated[list[str], Field(max_length=100_000)] = []
    allow: Annotated[list[str], Field(max_length=100_000)] = []


@dataclass(frozen=True)
class ContentPolicy:
    """A block list, and the items whose image the classifier refused, with the reason by item id."""

    blocked: BlockList = field(default_factory=BlockList)
    refused: Mapping[str, str] = field(default_factory=dict)

    def hidden(self, table: Any) -> dict[int, str]:
        """Return the rows of a table of items (ITEM_SCHEMA) that must not be shown, each with the reason."""
        hidden: dict[int, str] = {}
        ids = table.column("item_id")
        for reason, items in (("hidden by hand", self.blocked.items), ("its image was refused", list(self.refused))):
            for row in _true_rows(pc.is_in(ids, pa.array(items, pa.string()))):
                hidden.setdefault(row, self.refused.get(ids[row].as_py(), reason))
        for category in self.blocked.categories:
            column, name = table.column("category"), category.rstrip("/")
            for row in _true_rows(pc.or_(pc.equal(column, name), pc.starts_with(column, f"{name}/"))):
                hidden.setdefault(row, f"category {name!r} is blocked")
        if self.blocked.words:
            for name, rows in self._rows_with_blocked_words(table):
                for row in rows:
                    hidden.setdefault(row, f"a blocked word in its {name}")
        for row in _true_rows(pc.is_in(ids, pa.array(self.blocked.allow, pa.string()))):
            hidden.pop(row, None)
        return hidden

    def blocks(self, text: str) -> bool:
        """Return whether a text contains a blocked word."""
        return bool(self.blocked.words) and bool(pc.match_substring_regex(pa.scalar(text), self._pattern).as_py())

    @cached_property
    def _pattern(self) -> str:
        words = (r"\s+".join(map(_escape, word.split())) for word in self.blocked.words)
        return rf"(?i)(?:^|[^\pL\pN])(?:{'|'.join(words)})(?:$|[^\pL\pN])"

    def _rows_with_blocked_words(self, table: Any) -> Iterator[tuple[str, list[int]]]:
        """Yield each text field with the rows in which it contains a blocked word."""
        for name in TEXTS:
            yield name, _true_rows(pc.match_substring_regex(table.column(name), self._pattern))
        start = 0
        for chunk in table.column("attributes").chunks:  # a map from names to lists of texts
            values = chunk.items
            hits = np.array(_true_rows(pc.match_substring_regex(values.values, self._pattern)), np.int64)
            entries = np.searchsorted(values.offsets.to_numpy(), hits, side="right") - 1
            rows = np.searchsorted(chunk.offsets.to_numpy(), entries, side="right") - 1
            yield "attributes", [start + row for row in np.unique(rows).tolist()]
            start += len(chunk)


class ContentPolicyFile:
    """The policy of a store, which may change at any time; while a file is invalid, the previous policy applies."""

    def __init__(self, store: Path) -> None:
        self._files = store / FILE, store / REFUSED_FILE
        self._stamps: list[FileStamp] = [None, None]
        self._policy = ContentPolicy()

    def current(self) -> ContentPolicy:
        """Return the present policy, the same object until it changes."""
        stamps = [file_stamp(file) for file in self._files]
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._policy = ContentPolicy(read_block_list(self._files[0]), read_refused_items(self._files[1]))
            except BadRequest as error:
                _log.error("the previous content policy stays in force: %s", error.message)
        return self._policy


def read_block_list(path: Path) -> BlockList:
    """Read a `review.toml`, empty if it does not exist; raises BadRequest naming the field."""
    try:
        return BlockList.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return BlockList()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", FILE) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is not valid TOML: {error}", FILE) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise BadRequest(
            f"{path}: invalid {name}: {first['msg']} (use words, categories, items, allow)", name
        ) from error


def read_refused_items(path: Path) -> dict[str, str]:
    """Read the reason for each item with a refused image, by item id; empty if the file does not exist."""
    try:
        refused = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadRequest(
            f"{path} cannot be read ({error}): run vetrina build, which writes it again", REFUSED_FILE.name
        ) from error
    return {str(item_id): str(reason) for item_id, reason in refused.items()}


def _true_rows(mask: Any) -> list[int]:
    """Return the rows in which a mask is true; null counts as false."""
    values: NDArray[np.bool_] = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    rows: list[int] = np.flatnonzero(values).tolist()
    return rows


def _escape(word: str) -> str:
    # Not re.escape: RE2 rejects some of its escapes.
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", word)
