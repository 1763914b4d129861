"""Rules: what the shop decides itself about recommendations, in a small file that people can read.

    [[rule]]
    name = "no winter coats in summer"
    do = "hide"                             # hide, boost, bury, cap, pin
    where = { category = "Coats" }          # a filter as in a request; without it, every item
    from = 2026-05-01                       # and `until`: when it holds; without them, always

    [[rule]]
    name = "own brand first"
    do = "boost"                            # what can be expected of it times `factor`; bury divides by it
    where = { brand = "Lagune" }
    factor = 1.5

    [[rule]]
    name = "at most two of a brand"
    do = "cap"                              # of the list, by brand or category
    by = "brand"
    most = 2

    [[rule]]
    name = "this week's offer"
    do = "pin"                              # to a place of the list, from 1
    items = ["BPK-0003"]
    at = 1

    [[rule]]
    name = "filters for coffee machines"
    do = "boost"
    where = { category = "Coffee filters" }
    bought = { category = "Coffee machines" }   # only for who bought such a thing
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

Rules act in the order of the file, pins last. Each answer names the rules that acted on an item.
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
from embed.durable import stamp
from embed.errors import EmbedError
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.recommend.retrieval import item_relations as relations
from serve.recommend.retrieval.covisitation import DAY
from serve.recommend.retrieval.item_relations import ItemRelations
from serve.recommend.retrieval.retrievers import Items
from serve.recommend.retrieval.user_history import UserHistory
from serve.search.filters import compile_filter

_log = logging.getLogger(__name__)
PURCHASE = KINDS.index("purchase")
Stamp = tuple[int, int, int] | None
"""By what a file that has changed is known."""
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
        useless = sorted(self.model_fields_set - used - {"name", "do", "from_", "until"})
        if useless:
            raise ValueError(f"{useless[0]} says nothing with do = {self.do!r}: there {', '.join(sorted(used))} do")
        if self.do == "pin" and not self.items:
            raise ValueError("pin needs items: the ids of what is pinned")
        if self.do == "hide" and not (self.where or self.related or self.newer_than_days):
            raise ValueError("hide needs where or related: it would hide everything")
        if self.from_ and self.until and _moment(self.from_) >= _moment(self.until):
            raise ValueError(f"until {self.until} is not after from {self.from_}")
        return self

    def holds(self, now: float) -> bool:
        """Whether the rule holds at a moment (epoch seconds); days begin at midnight, UTC."""
        begun = self.from_ is None or _moment(self.from_) <= now
        return begun and (self.until is None or now < _moment(self.until))


def read_rules(path: Path) -> list[Rule]:
    """The rules of a file; raises BadRequest naming the rule, the field and what is wrong with it."""
    try:
        told = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", "rules") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is no TOML: {error}", "rules") from error
    if unknown := sorted(set(told) - {"rule"}):
        raise BadRequest(f"{path} has {unknown[0]!r}: rules are written as [[rule]]", unknown[0])
    listed = told.get("rule", [])
    if not isinstance(listed, list) or len(listed) > MAX_RULES:
        raise BadRequest(f"{path}: give at most {MAX_RULES} rules, each as [[rule]]", "rule")
    return [_read(path, place, values) for place, values in enumerate(listed, start=1)]


class RulesFile:
    """The rules of a file, and the relations beside it, which may change at any time.

    While they cannot be read the last good ones stay.
    """

    def __init__(self, path: Path) -> None:
        self._files = path, path.parent / relations.FILE
        self._rules: list[Rule] = []
        self._relations = ItemRelations()
        self._stamps: list[Stamp] = [None, None]
        self._reading = threading.Lock()

    def current(self) -> tuple[list[Rule], ItemRelations]:
        """The rules and relations as they are written now; none where there is no file of rules."""
        stamps = [stamp(file) for file in self._files]
        if stamps[0] is None:
            self._rules, self._stamps[0] = [], None
            return [], self._relations
        with self._reading:
            if stamps != self._stamps:
                try:
                    self._rules = read_rules(self._files[0])
                    self._relations = relations.read_relations(self._files[1])
                except (BadRequest, EmbedError) as error:
                    _log.error("the rules of before stay: %s", error.message)
                self._stamps = stamps
            return self._rules, self._relations


def rules_file(settings: Settings) -> Path:
    """Where the shop's rules are."""
    return settings.rules or settings.store / "rules.toml"


class ActiveRules:
    """The rules that hold at a moment, over the items of one shop; without state.

    `mask_of` gives the items [items] that pass a filter, `column` a column of some items, `first_seen` [items] is in
    epoch seconds, `number_of` an item's number, None where there is none such, and `id_of` its id again.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        now: float,
        mask_of: Callable[[Mapping[str, Any]], NDArray[np.bool_]],
        column: Callable[[str, Items], list[str | None]],
        first_seen: NDArray[np.float64],
        number_of: Callable[[str], int | None],
        id_of: Callable[[int], str],
        related: ItemRelations,
    ) -> None:
        self._rules = [rule for rule in rules if rule.holds(now)]
        self._now, self._mask_of, self._column = now, mask_of, column
        self._first_seen, self._number_of, self._id_of, self._related = first_seen, number_of, id_of, related

    def hidden(self, user: UserHistory) -> NDArray[np.bool_] | None:
        """The items [items] that the shopper must not be shown; None where there are none."""
        masks = [self._of(rule, user) for rule in self._rules if rule.do == "hide" and self._concerns(rule, user)]
        return np.logical_or.reduce(masks) if masks else None

    def factors(self, items: Items, user: UserHistory) -> tuple[NDArray[np.float32], dict[int, list[str]]]:
        """What the scores of m items are to be multiplied by, [m], and by number the names of the rules that say so."""
        factors, names = np.ones(len(items), np.float32), dict[int, list[str]]()
        for rule in self._rules:
            if rule.do not in ("boost", "bury") or not self._concerns(rule, user):
                continue
            meant = self._of(rule, user)[items]
            factors[meant] *= np.float32(rule.factor if rule.do == "boost" else 1 / rule.factor)
            for number in items[meant].tolist():
                names.setdefault(number, []).append(rule.name)
        return factors, names

    def pinned(self, barred: Items) -> dict[int, tuple[int, str]]:
        """By number, the place from 0 and the rule of each item that is pinned and not barred."""
        found: dict[int, tuple[int, str]] = {}
        for rule in (rule for rule in self._rules if rule.do == "pin"):
            numbers = [self._number_of(item_id) for item_id in rule.items]
            there = [number for number in numbers if number is not None and number not in barred]
            for back, number in enumerate(there):
                found.setdefault(number, (rule.at - 1 + back, rule.name))
        return found

    def arranged(
        self, items: Items, k: int, names: dict[int, list[str]], pinned: Mapping[int, tuple[int, str]]
    ) -> NDArray[np.int64]:
        """The places of the first k of m items in order, capped and with what is pinned at its place.

        Adds the names of the rules that moved an item to `names`, by number.
        """
        order = list(range(len(items)))
        for rule in (rule for rule in self._rules if rule.do == "cap"):
            capped = capped_order(self._column(rule.by, items[order]), rule.most)
            first = {order[place] for place in capped[:k]}
            for one in set(order[:k]) - first:
                names.setdefault(int(items[one]), []).append(rule.name)
            order = [order[place] for place in capped]
        numbers = items.tolist()
        at = {number: place for place, number in enumerate(numbers)}
        slots: dict[int, int] = {}  # by place; where two are pinned to one, the first of the file gets it
        for number, (wanted, name) in pinned.items():
            if number in at and wanted < k:
                slots[next(place for place in count(wanted) if place not in slots)] = at[number]
                names.setdefault(number, []).append(name)
        order = [one for one in order if one not in slots.values()]
        for place, one in sorted(slots.items()):
            order.insert(place, one)
        return np.array(order[:k], np.int64)

    def _concerns(self, rule: Rule, user: UserHistory) -> bool:
        if not rule.bought:
            return True
        bought = user.item[user.kind == PURCHASE]
        return bool(self._mask_of(rule.bought)[bought].any())

    def _of(self, rule: Rule, user: UserHistory) -> NDArray[np.bool_]:
        mask = self._mask_of(rule.where) if rule.where else np.ones(len(self._first_seen), np.bool_)
        if rule.related:
            bought = user.item[user.kind == PURCHASE]
            others = map(self._number_of, self._related.to(rule.related, map(self._id_of, bought.tolist())))
            mask = mask & np.isin(np.arange(len(mask)), [number for number in others if number is not None])
        if rule.newer_than_days is not None:
            mask = mask & (self._first_seen >= self._now - DAY * rule.newer_than_days)
        return mask


def _read(path: Path, place: int, values: Any) -> Rule:
    name = values.get("name") if isinstance(values, Mapping) else None
    where = f"{path}, rule {place}" + (f" ({name!r})" if isinstance(name, str) else "")
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


def _moment(of: datetime | date) -> float:
    if not isinstance(of, datetime):
        of = datetime.combine(of, time(), UTC)
    return (of if of.tzinfo else of.replace(tzinfo=UTC)).timestamp()


def capped_order(values: Sequence[str | None], most: int) -> list[int]:
    """Places of m items in order, those beyond `most` of a value behind all others; items without a value are free."""
    counts: dict[str, int] = {}
    kept: list[int] = []
    behind: list[int] = []
    for place, value in enumerate(values):
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
        (behind if value is not None and counts[value] > most else kept).append(place)
    return kept + behind
