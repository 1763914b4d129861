"""Mapping: which columns of a feed become which parts of a product.

A feed whose columns have the contract's own names needs none. Any other is described in a TOML file:

    format = "csv"                  # optional: csv jsonl parquet merchant shopify; otherwise recognised
    encoding = "latin-1"            # optional: otherwise UTF-8, or UTF-16 with a byte order mark
    delimiter = ";"                 # optional: otherwise , ; tab or | by the header

    [columns]                       # the contract's name = the feed's column
    item_id = "sku"
    price = ["special_price", "price"]      # the first that is not empty
    images = ["image", "more_images"]       # all of them

    [split]                         # the contract's name = what separates values inside one cell
    images = "|"

    [attributes]                    # any name = the feed's column
    color = "colour"
    sizes = { column = "sizes", split = "|" }
    more = { column = "extra", json = true, split = "|" }   # a JSON object: its members become attributes

    [defaults]                      # for products that do not say
    currency = "EUR"

    [category_tree]                 # where products name categories by number: the shop's table of them
    file = "categories.csv"         # beside this file
    id = "id"                       # its columns; these are the defaults
    name = "name"
    parent = "parent_id"

Names left out keep their default: the contract's own names, or those of the known feed. Column names match exactly or,
failing that, whatever their case, with spaces for underscores and without a `g:` prefix.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from embed.catalogue.category_tree import COLUMNS, read_category_tree
from embed.catalogue.item import Item
from embed.catalogue.raw import Raw
from embed.errors import BadInput
from embed.records import Record, known_names, plain_name, read_toml

CONTRACT = tuple(part.name for part in fields(Item) if part.name != "attributes")
FORMATS = ("csv", "jsonl", "parquet", "merchant", "shopify")


@dataclass(frozen=True, slots=True)
class ColumnSource:
    """A feed's column, what separates values inside it, and whether it holds a JSON object of attributes."""

    column: str
    split: str = ""
    json: bool = False


@dataclass(frozen=True)
class Mapping:
    """Where each part of a product comes from; `image` is an alias: what comes from it leads `images`."""

    columns: dict[str, tuple[ColumnSource, ...]] = field(default_factory=dict)
    attributes: dict[str, ColumnSource] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    format: str = ""
    category_tree: dict[str, str] = field(default_factory=dict)  # the path of each category, by its id

    @classmethod
    def load(cls, path: Path) -> "Mapping":
        """Reads a TOML file; raises Missing, or BadInput naming what is wrong and what would be right."""
        toml = read_toml(path)
        tree = toml.pop("category_tree", None)
        mapping = _mapping(toml, path.name)
        return mapping if tree is None else replace(mapping, category_tree=_category_tree(tree, path))

    def over(self, base: "Mapping") -> "Mapping":
        """This mapping, with `base` for what it leaves out; a column of attributes named here is not taken twice."""
        taken = {source.column for source in self.attributes.values() if source.json}
        attributes = {name: source for name, source in base.attributes.items() if source.column not in taken}
        return Mapping(
            base.columns | self.columns,
            attributes | self.attributes,
            base.defaults | self.defaults,
            self.encoding or base.encoding,
            self.delimiter or base.delimiter,
            self.format or base.format,
            self.category_tree or base.category_tree,
        )

    def named(self) -> set[str]:
        """The feed's columns this mapping names."""
        return {source.column for source in (*_flat(self.columns.values()), *self.attributes.values())}


CONTRACT_MAPPING = Mapping(
    {name: (ColumnSource(name, split="|" if name == "images" else ""),) for name in (*CONTRACT, "image")},
    {"attributes": ColumnSource("attributes", json=True)},
)


class Binding:
    """A mapping applied to records; `seen` and `used` are the feed's columns so far."""

    def __init__(self, mapping: Mapping, repairs: Counter[str]) -> None:
        self.mapping = mapping
        self.seen: dict[str, None] = {}
        self.used: set[str] = set()
        self._found: set[str] = set()
        self._repairs = repairs
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._currency = mapping.defaults.get("currency")
        self._defaults = [(name, value) for name, value in mapping.defaults.items() if name != "currency"]

    def apply(self, record: Record) -> Raw:
        """The product in a record, under the contract's names."""
        values = record.values
        plan = self.plan(tuple(values))
        raw = Raw(record.line, fallback_currency=self._currency)
        for name, column in plan.single:
            setattr(raw, name, values[column])
        for name, columns in plan.several:
            setattr(raw, name, next((values[column] for column in columns if not _blank(values[column])), None))
        for source in plan.images:
            raw.images += _parts(values[source.column], source.split)
        for name, source in plan.attributes:
            if source.json:
                for member, value in self._members(values[source.column]):
                    raw.attributes.setdefault(member, _parts(value, source.split))
            else:
                raw.attributes[name] = _parts(values[source.column], source.split)
        for name, value in self._defaults:
            if _blank(getattr(raw, name)):
                setattr(raw, name, value)
        if self.mapping.category_tree and not _blank(raw.category):
            raw.category = self.mapping.category_tree.get(str(raw.category).strip(), raw.category)
        return raw

    def plan(self, columns: tuple[str, ...]) -> "_Plan":
        """How to read records of these columns; notes them as seen."""
        plan = self._plans.get(columns)
        if plan is None:
            if len(self._plans) >= 1000:  # records that all differ: forget, so that memory stays bounded
                self._plans.clear()
            plan = self._plans[columns] = _Plan.of(self.mapping, columns)
            self.used |= plan.used
            self._found |= plan.found
            if len(self.seen) < 10_000:
                self.seen.update(dict.fromkeys(columns))
        return plan

    def check(self) -> None:
        """Raises BadInput unless the columns seen, if any, hold an id and something to embed."""
        if not self.seen:
            return
        hint = f"columns found: {', '.join(list(self.seen)[:40]) or 'none'}; name yours in a mapping, under [columns]: "
        if "item_id" not in self._found:
            raise BadInput(f'the feed has no item_id; {hint}item_id = "your column"', "item_id")
        if not self._found & {"title", "description", "images"}:
            raise BadInput(f'the feed has no title, description or image; {hint}title = "your column"', "title")

    def _members(self, value: object) -> Iterable[tuple[str, object]]:
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = False
        if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            value = dict(value)  # how a Parquet map reads
        if isinstance(value, dict):
            return [(str(name), member) for name, member in value.items()]
        self._repairs["attributes_unreadable"] += not _blank(value)
        return ()


@dataclass(slots=True)
class _Plan:
    """A mapping narrowed to the columns at hand."""

    single: list[tuple[str, str]]
    several: list[tuple[str, list[str]]]
    images: list[ColumnSource]
    attributes: list[tuple[str, ColumnSource]]
    found: set[str]
    used: set[str]

    @classmethod
    def of(cls, mapping: Mapping, columns: tuple[str, ...]) -> "_Plan":
        here = {plain_name(column): column for column in reversed(columns)} | {column: column for column in columns}

        def present(sources: Iterable[ColumnSource]) -> list[ColumnSource]:
            actual = [(here.get(source.column) or here.get(plain_name(source.column)), source) for source in sources]
            return [ColumnSource(column, source.split, source.json) for column, source in actual if column]

        bound = {name: present(mapping.columns.get(name, ())) for name in (*CONTRACT, "image")}
        images = bound.pop("image") + bound.pop("images")
        images = list({source.column: source for source in images}.values())
        attributes = [(name, source) for name, given in mapping.attributes.items() for source in present([given])]
        attributes.sort(key=lambda pair: pair[1].json)  # an attribute named by itself wins over a JSON member
        return cls(
            [(name, sources[0].column) for name, sources in bound.items() if len(sources) == 1],
            [(name, [source.column for source in sources]) for name, sources in bound.items() if len(sources) > 1],
            images,
            attributes,
            {name for name, sources in bound.items() if sources} | ({"images"} if images else set()),
            {source.column for source in (*_flat(bound.values()), *images, *(source for _, source in attributes))},
        )


def _flat(groups: Iterable[Iterable[ColumnSource]]) -> list[ColumnSource]:
    return [source for group in groups for source in group]


def _blank(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())  # noqa: PLR0124 (NaN)


def _parts(value: object, separator: str) -> list[object]:
    if isinstance(value, list | tuple):
        return [part for member in value for part in _parts(member, separator)]
    if value is None or value == "":
        return []
    return list(value.split(separator)) if separator and isinstance(value, str) else [value]


def _mapping(toml: dict[str, Any], file: str) -> Mapping:
    known_names(toml, [part.name for part in fields(Mapping)] + ["split"], file)
    tables = {name: toml.get(name, {}) for name in ("columns", "split", "attributes", "defaults")}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise BadInput(f"{file}: {name} is a table, written [{name}]", name)
    contract = [*CONTRACT, "image"]
    known_names(tables["columns"], contract, f"{file} [columns]")
    known_names(tables["split"], contract, f"{file} [split]")
    known_names(
        tables["defaults"], [name for name in CONTRACT if name not in ("item_id", "images")], f"{file} [defaults]"
    )
    columns = {}
    for name in tables["columns"] | tables["split"]:
        split = tables["split"].get(name, "")
        if not isinstance(split, str):
            raise BadInput(f"{file} [split] {name}: give a text in quotes, not {split!r}", name)
        given = tables["columns"].get(name, name)
        given = given if isinstance(given, list) else [given]
        columns[name] = tuple(_source(source, f"{file} [columns] {name}", split) for source in given)
    attributes = {name: _source(given, f"{file} [attributes] {name}") for name, given in tables["attributes"].items()}
    texts = {name: toml.get(name, "") for name in ("encoding", "delimiter", "format")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise BadInput(f"{file}: {name} is a text in quotes, not {text!r}", name)
    if texts["format"]:
        known_names([texts["format"]], FORMATS, f"{file}: format")
    defaults = {name: str(value) for name, value in tables["defaults"].items()}
    return Mapping(columns, attributes, defaults, **texts)


def _category_tree(given: object, mapping: Path) -> dict[str, str]:
    names = dict(zip(("id", "name", "parent"), COLUMNS, strict=True))
    where = f"{mapping.name} [category_tree]"
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise BadInput(f'{where}: it is a table of texts: file = "categories.csv"', "category_tree")
    known_names(given, ["file", *names], where)
    if "file" not in given:
        raise BadInput(f'{where}: name the table of categories, file = "categories.csv"', "category_tree")
    one, name, parent = (str(given.get(key, default)) for key, default in names.items())
    return read_category_tree(mapping.parent / given["file"], (one, name, parent))


def _source(given: object, where: str, split: str = "") -> ColumnSource:
    if isinstance(given, str):
        return ColumnSource(given, split)
    if not isinstance(given, dict) or not isinstance(given.get("column"), str):
        raise BadInput(f'{where}: give a column\'s name in quotes, or {{ column = "name", split = "|" }}', where)
    known_names(given, [part.name for part in fields(ColumnSource)], where)
    source = ColumnSource(given["column"], given.get("split", split), given.get("json", False))
    if not isinstance(source.split, str) or not isinstance(source.json, bool):
        raise BadInput(f"{where}: split is a text in quotes, json is true or false", where)
    return source
