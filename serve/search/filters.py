"""Filters: the JSON conditions of a request, checked, and compiled to a mask over a table of items.

    {"category": "Shoes", "price": {"lte": 50}, "brand": {"in": ["A", "B"]}, "not": {...}, "any": [{...}, {...}]}

All conditions of an object must hold. A plain value means equal. A category includes all categories below it. A missing
value meets no condition, and so passes any `not`. `attributes.NAME` holds if one of its values does.
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
    """A condition: `mask` returns which items of a pyarrow.Table pass, [items].

    `key` identifies the condition, however it was written. `expression` is the condition in Milvus' language; empty if
    Milvus cannot express it, or treats missing values in another way.
    """

    key: str
    mask: Callable[[Any], Mask]
    expression: str


@dataclass(frozen=True)
class Filter:
    """A checked filter. `key` is the same for equal filters, however they were written; see Predicate for the rest."""

    key: bytes
    mask: Callable[[Any], Mask] = field(compare=False)
    expression: str = field(compare=False)


def compile_filter(conditions: Mapping[str, Any], path: str = "filter") -> Filter | None:
    """Compile the filter of a request; None without conditions. Raises BadRequest that names the invalid part."""
    predicate = _FilterParser().parse_conditions(conditions, path, 1)
    if not conditions:
        return None
    key = blake2b(predicate.key.encode(), digest_size=16).digest()
    return Filter(key, predicate.mask, predicate.expression)


@dataclass
class _FilterParser:
    """Parses one filter, and counts its conditions and values, which are limited."""

    parsed: int = field(default=0)
    values: int = field(default=0)

    def parse_conditions(self, conditions: Any, path: str, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            raise BadRequest(f"{path} is nested deeper than {MAX_DEPTH} levels: nest fewer conditions", path)
        if not isinstance(conditions, Mapping):
            raise BadRequest(f"{path} is {_shown(conditions)}: give an object of conditions", path)
        if not conditions:  # it passes all items, and costs a mask like any other
            self._count_condition(path)
        predicates = [self.parse_condition(name, value, f"{path}.{name}", depth) for name, value in conditions.items()]
        return _all(predicates)

    def parse_condition(self, name: str, value: Any, path: str, depth: int) -> Predicate:
        self._count_condition(path)
        if name == "not":
            refused = self.parse_conditions(value, path, depth + 1)
            return Predicate(f"not({refused.key})", lambda table: ~refused.mask(table), "")
        if name == "any":
            if not isinstance(value, list):
                raise BadRequest(f"{path} is {_shown(value)}: give a list of objects", path)
            either = [self.parse_conditions(each, f"{path}.{index}", depth + 1) for index, each in enumerate(value)]
            return _any(either)
        attribute = name.removeprefix(ATTRIBUTE) if name.startswith(ATTRIBUTE) else ""
        if not _encodable(name) or not (attribute or name in COLUMNS[:-1]):
            raise BadRequest(f"{path}: unknown column {name!r}: use {', '.join(COLUMNS)}", path)
        operators = value if isinstance(value, Mapping) else {"eq": value}
        if not operators:
            raise BadRequest(f"{path} is empty: give a value, or one of eq, in, gt, gte, lt, lte", path)
        predicates = [
            self.parse_comparison(name, operator, operand, path if operators is not value else f"{path}.{operator}")
            for operator, operand in operators.items()
        ]
        return _all(predicates)

    def parse_comparison(self, name: str, operator: str, operand: Any, path: str) -> Predicate:
        if operator in COMPARISONS:
            if name not in NUMBERS:
                raise BadRequest(f"{path}: {name} is not a number: compare it by eq or in", path)
            compare, sign = COMPARISONS[operator]
            limit = self.parse_number(operand, path)
            return Predicate(
                _key(name, operator, [limit]),
                lambda table: _mask(compare(table.column(name), pa.scalar(limit, pa.float64()))),
                f"{name} {sign} {limit}",
            )
        if operator not in ("eq", "in"):
            raise BadRequest(f"{path}: unknown comparison {operator!r}: use eq, in, gt, gte, lt, lte", path)
        if operator == "eq":
            operand = [operand]
        elif not isinstance(operand, list):
            raise BadRequest(f"{path} is {_shown(operand)}: give a list of values", path)
        paths = [path if operator == "eq" else f"{path}.{index}" for index in range(len(operand))]
        parse = self.parse_number if name in NUMBERS else self.parse_bool if name == "available" else self.parse_text
        values = [parse(each, where) for each, where in zip(operand, paths, strict=True)]
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

    def parse_number(self, value: Any, path: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadRequest(f"{path} is {_shown(value)}: give a number", path)
        self._count(path)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise BadRequest(f"{path} is {_shown(value)}: give a finite number", path)
        return number + 0.0  # without the sign of -0.0

    def parse_bool(self, value: Any, path: str) -> bool:
        if not isinstance(value, bool):
            raise BadRequest(f"{path} is {_shown(value)}: give true or false", path)
        self._count(path)
        return value

    def parse_text(self, value: Any, path: str) -> str:
        if not isinstance(value, str):
            raise BadRequest(f"{path} is {_shown(value)}: give a string", path)
        if len(value) > MAX_TEXT or not _encodable(value):
            raise BadRequest(
                f"{path} is too long or not valid Unicode: give a text of at most {MAX_TEXT} characters", path
            )
        self._count(path)
        return value

    def _count_condition(self, path: str) -> None:
        self.parsed += 1
        if self.parsed > MAX_CONDITIONS:
            raise BadRequest(f"{path} is condition number {self.parsed}: use at most {MAX_CONDITIONS} conditions", path)

    def _count(self, path: str) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise BadRequest(f"{path} is value number {self.values}: use at most {MAX_VALUES:,} values", path)


def _all(predicates: list[Predicate]) -> Predicate:
    if len(predicates) == 1:
        return predicates[0]

    def mask(table: Any) -> Mask:
        passed = np.ones(table.num_rows, np.bool_)
        for predicate in predicates:
            passed &= predicate.mask(table)
        return passed

    return Predicate(_joined_keys("all", predicates), mask, _joined(predicates, " and "))


def _any(predicates: list[Predicate]) -> Predicate:
    def mask(table: Any) -> Mask:
        passed = np.zeros(table.num_rows, np.bool_)
        for predicate in predicates:
            passed |= predicate.mask(table)
        return passed

    return Predicate(_joined_keys("any", predicates), mask, _joined(predicates, " or "))


def _key(name: str, operator: str, values: list[Any]) -> str:
    return orjson.dumps([name, operator, values]).decode()


def _joined_keys(word: str, predicates: list[Predicate]) -> str:
    return f"{word}({','.join(sorted(predicate.key for predicate in predicates))})"


def _joined(predicates: list[Predicate], word: str) -> str:
    has_expression = all(predicate.expression for predicate in predicates)
    return word.join(f"({predicate.expression})" for predicate in predicates) if has_expression else ""


def _below(key: str, paths: list[str]) -> Predicate:
    """Return the predicate of items whose category is one of the paths or below one."""
    prefixes = tuple(f"{path}/" for path in paths)

    def mask(table: Any) -> Mask:
        # By name first: there are few categories with many items each.
        column = table.column("category").combine_chunks().dictionary_encode()
        names = column.dictionary.to_pylist()
        matches = np.array([*(name in paths or name.startswith(prefixes) for name in names), False], np.bool_)
        passed: Mask = matches[pc.fill_null(column.indices, len(names)).to_numpy(zero_copy_only=False)]
        return passed

    expressions = [
        f"category == {orjson.dumps(path).decode()} or category like {orjson.dumps(path + '/%').decode()}"
        for path in paths
    ]
    plain = not any(sign in path for path in paths for sign in "%_\\")
    return Predicate(key, mask, " or ".join(expressions) if plain else "")


def _mask(passed: Any) -> Mask:
    mask: Mask = np.asarray(pc.fill_null(passed, False), np.bool_)
    return mask


def _has_attribute(table: Any, name: str, values: list[Any]) -> Mask:
    """Return which items have one of the values in an attribute, [items]."""
    masks = [np.zeros(0, np.bool_)]
    for chunk in table.column("attributes").chunks:
        mask = np.zeros(len(chunk), np.bool_)
        entries = np.flatnonzero(_mask(pc.equal(chunk.keys, name)))
        lists = chunk.items.take(pa.array(entries))
        hits = _mask(pc.is_in(pc.list_flatten(lists), pa.array(values, pa.string())))
        matching = entries[np.asarray(pc.list_parent_indices(lists))[hits]]
        rows = np.searchsorted(np.asarray(chunk.offsets), matching, side="right") - 1
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
