"""Merchandising rules: the shop's own decisions about recommendations, in a small TOML file.

    [[rule]]
    name = "no winter coats in summer"
    do = "hide"                             # hide, boost, bury, cap, pin
    where = { category = "Coats" }          # a filter as in a request; without it, all items
    from = 2026-05-01                       # first and last day (`until`); without them, always

    [[rule]]
    name = "own brand first"
    do = "boost"                            # multiplies the score by `factor`; bury divides by it
    where = { brand = "Lagune" }
    factor = 1.5

    [[rule]]
    name = "at most two of a brand"
    do = "cap"                              # by brand or category
    by = "brand"
    most = 2

    [[rule]]
    name = "this week's offer"
    do = "pin"                              # to a position of the list, from 1
    items = ["BPK-0003"]
    at = 1

    [[rule]]
    name = "filters for coffee machines"
    do = "boost"
    where = { category = "Coffee filters" }
    bought = { category = "Coffee machines" }   # only for users who bought such an item
    factor = 3.0

    [[rule]]
    name = "what goes with what was bought"
    do = "boost"
    related = "accessory"                   # from relations.csv beside this file
    factor = 3.0

    [[rule]]
    name = "new ones first"
    do = "boost"
    newer_than_days = 30
    factor = 1.2

Rules act in the order of the file, pins last. A response names the rules that acted on each item.
"""

import logging
import threading
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from embed.behaviour.interactions import KINDS
from embed.durable import file_stamp
from embed.errors import EmbedError
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.core.units import DAY
from serve.recommend.retrieval import item_relations as relations
from serve.recommend.retrieval.item_relations import ItemRelations
from serve.recommend.retrieval.retriever import Items
from serve.recommend.retrieval.user_history import UserHistory
from serve.search.filters import compile_filter

_log = logging.getLogger(__name__)
PURCHASE = KINDS.index("purchase")
Stamp = tuple[int, int, int] | None
"""Changes if the file changes."""
MAX_RULES = 200
MAX_PINNED = 20


class Rule(BaseModel):
    """One rule; see the top of this file."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: Annotated[str, Field(min_length=1, max_length=200)]
    do: Literal["hide", "boost", "bury", "cap", "pin"]
    where: dict[str, Any] = {}
    bought: dict[str, Any] = {}
    related: str = Field("", max_length=200)
    factor: float = Field(2.0, gt=1, le=1000)
    by: Literal["brand", "category"] = "brand"
    most: int = Field(2, ge=1, le=1000)
    items: Annotated[list[str], Field(max_length=MAX_PINNED)] = []
    at: int = Field(1, ge=1, le=1000)
    newer_than_days: float | None = Field(None, gt=0)
    from_: datetime | date | None = Field(None, alias="from")
    until: datetime | date | None = None

    @model_validator(mode="after")
    def _fits(self) -> "Rule":
        used = {
            "hide": {"where", "bought", "related", "newer_than_days"},
            "boost": {"where", "bought", "related", "newer_than_days", "factor"},
            "bury": {"where", "bought", "related", "newer_than_days", "factor"},
            "cap": {"by", "most"},
            "pin": {"items", "at"},
        }[self.do]
        unused = sorted(self.model_fields_set - used - {"name", "do", "from_", "until"})
        if unused:
            raise ValueError(f"{unused[0]} has no effect with do = {self.do!r}: use {', '.join(sorted(used))}")
        if self.do == "pin" and not self.items:
            raise ValueError("pin needs items: list the ids to pin")
        if self.do == "hide" and not (self.where or self.related or self.newer_than_days):
            raise ValueError("hide needs where, related or newer_than_days: without them it would hide every item")
        if self.from_ and self.until and _epoch_seconds(self.from_) >= _epoch_seconds(self.until):
            raise ValueError(f"until {self.until} is not after from {self.from_}")
        return self

    def is_active(self, now: float) -> bool:
        """Return whether the rule is active at a time (epoch seconds); days begin at midnight, UTC."""
        has_started = self.from_ is None or _epoch_seconds(self.from_) <= now
        return has_started and (self.until is None or now < _epoch_seconds(self.until))


def read_rules(path: Path) -> list[Rule]:
    """Read the rules of a file; raises BadRequest that names the rule, the field and the reason."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", "rules") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is not valid TOML: {error}", "rules") from error
    if unknown := sorted(set(document) - {"rule"}):
        raise BadRequest(f"{path} has an unknown key {unknown[0]!r}: write each rule as [[rule]]", unknown[0])
    listed = document.get("rule", [])
    if not isinstance(listed, list) or len(listed) > MAX_RULES:
        raise BadRequest(f"{path} needs at most {MAX_RULES} rules, each written as [[rule]]", "rule")
    return [_parse_rule(path, number, values) for number, values in enumerate(listed, start=1)]


class RulesFile:
    """The rules of a file and the relations beside it, which may change at any time.

    While they are invalid, the last valid ones stay active.
    """

    def __init__(self, path: Path) -> None:
        self._files = path, path.parent / relations.FILE
        self._rules: list[Rule] = []
        self._relations = ItemRelations()
        self._stamps: list[Stamp] = [None, None]
        self._lock = threading.Lock()

    def current(self) -> tuple[list[Rule], ItemRelations]:
        """Return the rules and relations as the files have them now; no rules without a file."""
        stamps = [file_stamp(file) for file in self._files]
        if stamps[0] is None:
            self._rules, self._stamps[0] = [], None
            return [], self._relations
        with self._lock:
            if stamps != self._stamps:
                try:
                    self._rules = read_rules(self._files[0])
                    self._relations = relations.read_relations(self._files[1])
                except (BadRequest, EmbedError) as error:
                    _log.error("the previous rules stay active: %s", error.message)
                self._stamps = stamps
            return self._rules, self._relations


def rules_file(settings: Settings) -> Path:
    """Return the path of the shop's rules."""
    return settings.rules or settings.store / "rules.toml"


class ActiveRules:
    """The rules that are active at a time, over the items of one snapshot; without state.

    Args:
        rules: All rules.
        now: The time, epoch seconds.
        mask_of: Returns the items that pass a filter, [items].
        column: Returns a column of some items.
        first_seen: When each item came into the catalogue, epoch seconds, [items].
        item_index: Returns the index of an item id, None for an unknown one.
        id_of: Returns the id of an item index.
        related: The shop's item relations.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        now: float,
        mask_of: Callable[[Mapping[str, Any]], NDArray[np.bool_]],
        column: Callable[[str, Items], list[str | None]],
        first_seen: NDArray[np.float64],
        item_index: Callable[[str], int | None],
        id_of: Callable[[int], str],
        related: ItemRelations,
    ) -> None:
        self._rules = [rule for rule in rules if rule.is_active(now)]
        self._now, self._mask_of, self._column = now, mask_of, column
        self._first_seen, self._item_index, self._id_of, self._related = first_seen, item_index, id_of, related

    def hidden(self, user: UserHistory) -> NDArray[np.bool_] | None:
        """Return the items [items] that must not be recommended to a user; None for none."""
        masks = [self._mask(rule, user) for rule in self._rules if rule.do == "hide" and self._applies(rule, user)]
        return np.logical_or.reduce(masks) if masks else None

    def factors(self, items: Items, user: UserHistory) -> tuple[NDArray[np.float32], dict[int, list[str]]]:
        """Return the factors [m] of the scores of m items, and by item index the names of the rules behind them."""
        factors, names = np.ones(len(items), np.float32), dict[int, list[str]]()
        for rule in self._rules:
            if rule.do not in ("boost", "bury") or not self._applies(rule, user):
                continue
            matches = self._mask(rule, user)[items]
            factors[matches] *= np.float32(rule.factor if rule.do == "boost" else 1 / rule.factor)
            for item in items[matches].tolist():
                names.setdefault(item, []).append(rule.name)
        return factors, names

    def pinned(self, excluded: Items) -> dict[int, tuple[int, str]]:
        """Return, by item index, the position from 0 and the rule of each pinned item that is not excluded."""
        pins: dict[int, tuple[int, str]] = {}
        for rule in (rule for rule in self._rules if rule.do == "pin"):
            known = [self._item_index(item_id) for item_id in rule.items]
            items = [item for item in known if item is not None and item not in excluded]
            for offset, item in enumerate(items):
                pins.setdefault(item, (rule.at - 1 + offset, rule.name))
        return pins

    def arrange(
        self, items: Items, k: int, names: dict[int, list[str]], pinned: Mapping[int, tuple[int, str]]
    ) -> NDArray[np.int64]:
        """Cap the values of a list, and move pinned items to their positions.

        Args:
            items: The items [m] in their order.
            k: The number of items of the list.
            names: By item index, the names of rules; those that moved an item are added.
            pinned: By item index, the position and the rule of each pinned item.

        Returns:
            The rows of the first k items in their new order.
        """
        order = list(range(len(items)))
        for rule in (rule for rule in self._rules if rule.do == "cap"):
            capped = order_capped(self._column(rule.by, items[order]), rule.most)
            first = {order[row] for row in capped[:k]}
            for row in set(order[:k]) - first:
                names.setdefault(int(items[row]), []).append(rule.name)
            order = [order[row] for row in capped]
        row_of = {item: row for row, item in enumerate(items.tolist())}
        slots: dict[int, int] = {}  # by position; if two items are pinned to one, the first of the file gets it
        for item, (position, name) in pinned.items():
            if item in row_of and position < k:
                slots[next(free for free in count(position) if free not in slots)] = row_of[item]
                names.setdefault(item, []).append(name)
        order = [row for row in order if row not in slots.values()]
        for position, row in sorted(slots.items()):
            order.insert(position, row)
        return np.array(order[:k], np.int64)

    def _applies(self, rule: Rule, user: UserHistory) -> bool:
        if not rule.bought:
            return True
        bought = user.item[user.kind == PURCHASE]
        return bool(self._mask_of(rule.bought)[bought].any())

    def _mask(self, rule: Rule, user: UserHistory) -> NDArray[np.bool_]:
        mask = self._mask_of(rule.where) if rule.where else np.ones(len(self._first_seen), np.bool_)
        if rule.related:
            bought = user.item[user.kind == PURCHASE]
            item_ids = self._related.related_to(rule.related, map(self._id_of, bought.tolist()))
            related = [item for item in map(self._item_index, item_ids) if item is not None]
            mask = mask & np.isin(np.arange(len(mask)), related)
        if rule.newer_than_days is not None:
            mask = mask & (self._first_seen >= self._now - DAY * rule.newer_than_days)
        return mask


def _parse_rule(path: Path, number: int, values: Any) -> Rule:
    name = values.get("name") if isinstance(values, Mapping) else None
    where = f"{path}, rule {number}" + (f" ({name!r})" if isinstance(name, str) else "")
    try:
        rule = Rule.model_validate(values)
        for field in ("where", "bought"):
            compile_filter(getattr(rule, field), field)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise BadRequest(f"{where}: {field + ': ' if field else ''}{first['msg']}", field or "rule") from error
    except BadRequest as error:
        raise BadRequest(f"{where}: {error.message}", error.field) from error
    return rule


def _epoch_seconds(day: datetime | date) -> float:
    if not isinstance(day, datetime):
        day = datetime.combine(day, time(), UTC)
    return (day if day.tzinfo else day.replace(tzinfo=UTC)).timestamp()


def order_capped(values: Sequence[str | None], most: int) -> list[int]:
    """Return the rows of m items in order, those beyond `most` of a value behind all others; no value has no limit."""
    counts: dict[str, int] = {}
    within: list[int] = []
    beyond: list[int] = []
    for row, value in enumerate(values):
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
        (beyond if value is not None and counts[value] > most else within).append(row)
    return within + beyond
