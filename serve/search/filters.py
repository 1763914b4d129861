"""Filters: the JSON conditions of a request, checked, and compiled to a mask over a table of items.

    {"category": "Shoes", "price": {"lte": 50}, "brand": {"in": ["A", "B"]}, "not": {...}, "any": [{...}, {...}]}

All conditions of an object have to hold. A plain value means equal. A category stands for everything below it too. A
missing value meets no condition, and so passes any `not`. `attributes.NAME` holds where one of its values does.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serve.core.errors import BadRequest

MAX_DEPTH = 8
MAX_CONDITIONS = 200
MAX_VALUES = 5_000
MAX_TEXT = 1_000

TEXTS = ("item_id", "title", "brand", "currency", "domain")
NUMBERS = ("price", "updated_at")
COLUMNS = (*TEXTS, "category", *NUMBERS, "available", "attributes.NAME")
COMPARISONS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "gt": (pc.greater, ">"),
    "gte": (pc.greater_equal, ">="),
    "lt": (pc.less, "<"),
    "lte": (pc.less_equal, "<="),
}
ATTRIBUTE = "attributes."

Mask = NDArray[np.bool_]


class Predicate(NamedTuple):
    """A condition: `mask` takes a pyarrow.Table of items to those that pass, [items].

    `key` says which, alike for all that differ in writing only. `expression` says the same in Milvus' language; it is
    empty for what that cannot say, or says otherwise of missing values.
    """

    key: str
    mask: Callable[[Any], Mask]
    expression: str


@dataclass(frozen=True)
class Filter:
    """A checked filter. `key` is the same for equal filters, however they were written; see Test for the rest."""

    key: bytes
    mask: Callable[[Any], Mask] = field(compare=False)
    expression: str = field(compare=False)


def compile_filter(given: Mapping[str, Any], place: str = "filter") -> Filter | None:
    """The filter of a request, or None where it asks for nothing; raises BadRequest naming the place of a mistake."""
    reading = _Reading()
    test = reading.conditions(given, place, 1)
    return Filter(blake2b(test.key.encode(), digest_size=16).digest(), test.mask, test.expression) if given else None


@dataclass
class _Reading:
    """One filter being read; counts what it is made of, so that its size has a limit."""

    read: int = field(default=0)
    values: int = field(default=0)

    def conditions(self, given: Any, place: str, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            raise BadRequest(f"{place} is nested deeper than {MAX_DEPTH} levels: make it flatter", place)
        if not isinstance(given, Mapping):
            raise BadRequest(f"{place} is {_shown(given)}: give an object of conditions", place)
        if not given:  # it passes everything, and costs a mask as any other
            self._count_condition(place)
        tests = [self.condition(name, value, f"{place}.{name}", depth) for name, value in given.items()]
        return _all(tests)

    def condition(self, name: str, value: Any, place: str, depth: int) -> Predicate:
        self._count_condition(place)
        if name == "not":
            refused = self.conditions(value, place, depth + 1)
            return Predicate(f"not({refused.key})", lambda table: ~refused.mask(table), "")
        if name == "any":
            if not isinstance(value, list):
                raise BadRequest(f"{place} is {_shown(value)}: give a list of objects", place)
            either = [self.conditions(each, f"{place}.{index}", depth + 1) for index, each in enumerate(value)]
            return _any(either)
        attribute = name.removeprefix(ATTRIBUTE) if name.startswith(ATTRIBUTE) else ""
        if not _encodable(name) or not (attribute or name in COLUMNS[:-1]):
            raise BadRequest(f"{place}: there is no column {name!r} to filter by, only {', '.join(COLUMNS)}", place)
        operators = value if isinstance(value, Mapping) else {"eq": value}
        if not operators:
            raise BadRequest(f"{place} is empty: give a value, or one of eq, in, gt, gte, lt, lte", place)
        tests = [
            self.comparison(name, operator, operand, place if operators is not value else f"{place}.{operator}")
            for operator, operand in operators.items()
        ]
        return _all(tests)

    def comparison(self, name: str, operator: str, operand: Any, place: str) -> Predicate:
        if operator in COMPARISONS:
            if name not in NUMBERS:
                raise BadRequest(f"{place}: {name} has no order, compare it by eq or in", place)
            compare, sign = COMPARISONS[operator]
            limit = self.number(operand, place)
            return Predicate(
                _key(name, operator, [limit]),
                lambda table: _mask(compare(table.column(name), pa.scalar(limit, pa.float64()))),
                f"{name} {sign} {limit}",
            )
        if operator not in ("eq", "in"):
            raise BadRequest(f"{place}: there is no comparison {operator!r}, only eq, in, gt, gte, lt, lte", place)
        if operator == "eq":
            operand = [operand]
        elif not isinstance(operand, list):
            raise BadRequest(f"{place} is {_shown(operand)}: give a list of values", place)
        places = [place if operator == "eq" else f"{place}.{index}" for index in range(len(operand))]
        kind = self.number if name in NUMBERS else self.switch if name == "available" else self.text
        values = [kind(each, where) for each, where in zip(operand, places, strict=True)]
        if name == "category":
            values = [str(value).rstrip("/") for value in values]
        values = sorted(set(values))
        key = _key(name, "in", values)
        if name.startswith(ATTRIBUTE):
            return Predicate(key, lambda table: _has_attribute(table, name.removeprefix(ATTRIBUTE), values), "")
        if name == "category":
            return _below(key, [str(value) for value in values])
        return Predicate(
            key,
            lambda table: _mask(pc.is_in(table.column(name), pa.array(values, table.column(name).type))),
            f"{name} in {orjson.dumps(values).decode()}",
        )

    def number(self, value: Any, place: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadRequest(f"{place} is {_shown(value)}: give a number", place)
        self._count(place)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise BadRequest(f"{place} is {_shown(value)}: give a number that is not infinite", place)
        return number + 0.0  # of nought without its sign

    def switch(self, value: Any, place: str) -> bool:
        if not isinstance(value, bool):
            raise BadRequest(f"{place} is {_shown(value)}: give true or false", place)
        self._count(place)
        return value

    def text(self, value: Any, place: str) -> str:
        if not isinstance(value, str):
            raise BadRequest(f"{place} is {_shown(value)}: give a text", place)
        if len(value) > MAX_TEXT or not _encodable(value):
            raise BadRequest(f"{place}: give a text of at most {MAX_TEXT} whole characters", place)
        self._count(place)
        return value

    def _count_condition(self, place: str) -> None:
        self.read += 1
        if self.read > MAX_CONDITIONS:
            raise BadRequest(f"{place} is condition number {self.read}: a filter has at most {MAX_CONDITIONS}", place)

    def _count(self, place: str) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise BadRequest(f"{place} is value number {self.values}: a filter has at most {MAX_VALUES}", place)


def _all(tests: list[Predicate]) -> Predicate:
    if len(tests) == 1:
        return tests[0]

    def mask(table: Any) -> Mask:
        passed = np.ones(table.num_rows, np.bool_)
        for test in tests:
            passed &= test.mask(table)
        return passed

    return Predicate(_joined_keys("all", tests), mask, _joined(tests, " and "))


def _any(tests: list[Predicate]) -> Predicate:
    def mask(table: Any) -> Mask:
        passed = np.zeros(table.num_rows, np.bool_)
        for test in tests:
            passed |= test.mask(table)
        return passed

    return Predicate(_joined_keys("any", tests), mask, _joined(tests, " or "))


def _key(name: str, operator: str, values: list[Any]) -> str:
    return orjson.dumps([name, operator, values]).decode()


def _joined_keys(word: str, tests: list[Predicate]) -> str:
    return f"{word}({','.join(sorted(test.key for test in tests))})"


def _joined(tests: list[Predicate], word: str) -> str:
    said = all(test.expression for test in tests)
    return word.join(f"({test.expression})" for test in tests) if said else ""


def _below(key: str, paths: list[str]) -> Predicate:
    """Items whose category is one of the paths or lies below one."""
    prefixes = tuple(f"{path}/" for path in paths)

    def mask(table: Any) -> Mask:
        # By name first: there are few categories, and many items in each.
        column = table.column("category").combine_chunks().dictionary_encode()
        names = column.dictionary.to_pylist()
        wanted = np.array([*(name in paths or name.startswith(prefixes) for name in names), False], np.bool_)
        passed: Mask = wanted[pc.fill_null(column.indices, len(names)).to_numpy(zero_copy_only=False)]
        return passed

    tests = [
        f"category == {orjson.dumps(path).decode()} or category like {orjson.dumps(path + '/%').decode()}"
        for path in paths
    ]
    plain = not any(sign in path for path in paths for sign in "%_\\")
    return Predicate(key, mask, " or ".join(tests) if plain else "")


def _mask(passed: Any) -> Mask:
    mask: Mask = np.asarray(pc.fill_null(passed, False), np.bool_)
    return mask


def _has_attribute(table: Any, name: str, values: list[Any]) -> Mask:
    """Items of which an attribute has one of the values."""
    masks = [np.zeros(0, np.bool_)]
    for chunk in table.column("attributes").chunks:
        mask = np.zeros(len(chunk), np.bool_)
        entries = np.flatnonzero(_mask(pc.equal(chunk.keys, name)))
        lists = chunk.items.take(pa.array(entries))
        hits = _mask(pc.is_in(pc.list_flatten(lists), pa.array(values, pa.string())))
        found = entries[np.asarray(pc.list_parent_indices(lists))[hits]]
        rows = np.searchsorted(np.asarray(chunk.offsets), found, side="right") - 1
        mask[rows[(rows >= 0) & (rows < len(chunk))]] = True
        masks.append(mask)
    return np.concatenate(masks)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"
