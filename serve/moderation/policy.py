"""Content review: what may not be shown, whatever asks for it. What it hides is listed with the reason.

    words = ["replica", "hair straightener"]  # whole words or phrases, of any case, in any text of an item
    categories = ["Weapons"]                  # and all below
    items = ["SNK-0007"]                      # hidden by hand
    allow = ["BPK-0003"]                      # shown in spite of all that

These lines stand in `review.toml` in the store and hold in every process within a second. A classifier of images, a
function of the shop's own named by `[review] classifier = "module:function"`, is asked of every image once (see
serve.moderation.image_classifier); what it refuses stands in `review/refused.json`.
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

from embed.durable import stamp
from serve.core.errors import BadRequest

FILE = "review.toml"
REFUSED = Path("review") / "refused.json"
TEXTS = ("title", "description", "brand", "category")
_log = logging.getLogger(__name__)
Stamp = tuple[int, int, int] | None

_Word = Annotated[str, Field(min_length=1, max_length=200)]


class BlockList(BaseModel):
    """What review.toml says; see the top of this file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: Annotated[list[_Word], Field(max_length=10_000)] = []
    categories: Annotated[list[_Word], Field(max_length=10_000)] = []
    items: Annotated[list[str], Field(max_length=100_000)] = []
    allow: Annotated[list[str], Field(max_length=100_000)] = []


@dataclass(frozen=True)
class ContentPolicy:
    """A block list, and the items whose image the classifier refused, by id with what is wrong."""

    blocked: BlockList = field(default_factory=BlockList)
    refused: Mapping[str, str] = field(default_factory=dict)

    def hidden(self, table: Any) -> dict[int, str]:
        """The rows of a table of items (ITEM_SCHEMA) that must not be shown, each with the reason."""
        found: dict[int, str] = {}
        ids = table.column("item_id")
        for reason, listed in (("hidden by hand", self.blocked.items), ("its image was refused", list(self.refused))):
            for row in _where(pc.is_in(ids, pa.array(listed, pa.string()))):
                found.setdefault(row, self.refused.get(ids[row].as_py(), reason))
        for category in self.blocked.categories:
            column = table.column("category")
            below = pc.starts_with(column, f"{category.rstrip('/')}/")
            for row in _where(pc.or_(pc.equal(column, category), below)):
                found.setdefault(row, f"category {category!r} is blocked")
        if self.blocked.words:
            for name, rows in self._worded(table):
                for row in rows:
                    found.setdefault(row, f"a blocked word in its {name}")
        for row in _where(pc.is_in(ids, pa.array(self.blocked.allow, pa.string()))):
            found.pop(row, None)
        return found

    def blocks(self, text: str) -> bool:
        """Whether a text has a blocked word."""
        return bool(self.blocked.words) and bool(pc.match_substring_regex(pa.scalar(text), self._pattern).as_py())

    @cached_property
    def _pattern(self) -> str:
        words = (r"\s+".join(map(_escaped, word.split())) for word in self.blocked.words)
        return rf"(?i)(?:^|[^\pL\pN])(?:{'|'.join(words)})(?:$|[^\pL\pN])"

    def _worded(self, table: Any) -> Iterator[tuple[str, list[int]]]:
        """The rows that have a blocked word, by where they have it."""
        for name in TEXTS:
            yield name, _where(pc.match_substring_regex(table.column(name), self._pattern))
        start = 0
        for chunk in table.column("attributes").chunks:  # a map from names to lists of texts
            values = chunk.items
            hits = np.array(_where(pc.match_substring_regex(values.values, self._pattern)), np.int64)
            entries = np.searchsorted(values.offsets.to_numpy(), hits, side="right") - 1
            rows = np.searchsorted(chunk.offsets.to_numpy(), entries, side="right") - 1
            yield "attributes", [start + row for row in np.unique(rows).tolist()]
            start += len(chunk)


class ContentPolicyFile:
    """The policy of a store, which may change at any time. While a file cannot be read, what it said before stays."""

    def __init__(self, store: Path) -> None:
        self._files = store / FILE, store / REFUSED
        self._stamps: list[Stamp] = [None, None]
        self._policy = ContentPolicy()

    def current(self) -> ContentPolicy:
        """The policy as it is written now, the same object until it changes."""
        stamps = [stamp(file) for file in self._files]
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._policy = ContentPolicy(read_block_list(self._files[0]), read_refused(self._files[1]))
            except BadRequest as error:
                _log.error("the content review of before stays: %s", error.message)
        return self._policy


def read_block_list(path: Path) -> BlockList:
    """What a review.toml says, nothing where there is none; raises BadRequest naming the field."""
    try:
        return BlockList.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return BlockList()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", FILE) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is no TOML: {error}", FILE) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise BadRequest(f"{path}: {name}: {first['msg']} (known are words, categories, items, allow)", name) from error


def read_refused(path: Path) -> dict[str, str]:
    """What is wrong with the image of each item that has one refused."""
    try:
        found = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadRequest(f"{path} cannot be read ({error}): the next build writes it anew", REFUSED.name) from error
    return {str(item_id): str(reason) for item_id, reason in found.items()}


def _where(mask: Any) -> list[int]:
    """The places where a mask is true; null is not."""
    whole: NDArray[np.bool_] = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    found: list[int] = np.flatnonzero(whole).tolist()
    return found


def _escaped(word: str) -> str:
    # Not re.escape: RE2 does not know all that it escapes.
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", word)
