"""The feed mapping: which columns of a feed become which fields of a product.

A feed with the standard column names needs no mapping. A TOML file describes any other:

    format = "csv"                  # optional: csv jsonl parquet merchant shopify; detected by default
    encoding = "latin-1"            # optional: by default UTF-8, or UTF-16 with a byte order mark
    delimiter = ";"                 # optional: by default , ; tab or | by the header

    [columns]                       # standard name = the feed's column
    item_id = "sku"
    price = ["special_price", "price"]      # the first non-empty one
    images = ["image", "more_images"]       # all of them

    [split]                         # standard name = separator of values in one cell
    images = "|"

    [attributes]                    # any name = the feed's column
    color = "colour"
    sizes = { column = "sizes", split = "|" }
    more = { column = "extra", json = true, split = "|" }   # a JSON object: its members become attributes

    [defaults]                      # for products without a value
    currency = "EUR"

    [category_tree]                 # for feeds with category ids: the shop's table of categories
    file = "categories.csv"         # in the folder of this file
    id = "id"                       # its columns; these are the defaults
    name = "name"
    parent = "parent_id"

Fields that the file does not name keep their default: the standard name, or that of the detected format. Column names
match exactly or, failing that, regardless of case, with spaces for underscores and without a `g:` prefix.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from embed.catalogue.category_tree import COLUMNS, read_category_tree
from embed.catalogue.item import Item
from embed.catalogue.raw_product import RawProduct
from embed.errors import BadInput
from embed.records import Record, check_names, normalize_name, read_toml

ITEM_FIELDS = tuple(part.name for part in fields(Item) if part.name != "attributes")
FORMATS = ("csv", "jsonl", "parquet", "merchant", "shopify")


@dataclass(frozen=True, slots=True)
class ColumnSource:
    """A column of a feed, the separator of its values, and whether it holds a JSON object of attributes."""

    column: str
    split: str = ""
    json: bool = False


@dataclass(frozen=True)
class FeedMapping:
    """Which columns each field of a product comes from. `image` is an alias: its values come first in `images`."""

    columns: dict[str, tuple[ColumnSource, ...]] = field(default_factory=dict)
    attributes: dict[str, ColumnSource] = field(default_factory=dict)
    defaults: dict[str, str] = field(default_factory=dict)
    encoding: str = ""
    delimiter: str = ""
    format: str = ""
    category_tree: dict[str, str] = field(default_factory=dict)  # the path of each category, by its id

    @classmethod
    def load(cls, path: Path, category_tree: Path | None = None) -> "FeedMapping":
        """Read a TOML file; raises Missing, or BadInput naming what is invalid and what is valid.

        `category_tree` replaces the file that [category_tree] names, where the file has that table.
        """
        toml = read_toml(path)
        tree = toml.pop("category_tree", None)
        mapping = _mapping(toml, path.name)
        return mapping if tree is None else replace(mapping, category_tree=_category_tree(tree, path, category_tree))

    def over(self, base: "FeedMapping") -> "FeedMapping":
        """Return this mapping, completed by `base`. A column with attributes that is named here is not used twice."""
        json_columns = {source.column for source in self.attributes.values() if source.json}
        attributes = {name: source for name, source in base.attributes.items() if source.column not in json_columns}
        return FeedMapping(
            base.columns | self.columns,
            attributes | self.attributes,
            base.defaults | self.defaults,
            self.encoding or base.encoding,
            self.delimiter or base.delimiter,
            self.format or base.format,
            self.category_tree or base.category_tree,
        )

    def named(self) -> set[str]:
        """Return the columns that this mapping names."""
        return {source.column for source in (*_flat(self.columns.values()), *self.attributes.values())}


CONTRACT_MAPPING = FeedMapping(
    {name: (ColumnSource(name, split="|" if name == "images" else ""),) for name in (*ITEM_FIELDS, "image")},
    {"attributes": ColumnSource("attributes", json=True)},
)


class Binding:
    """Applies a mapping to records; `columns` and `used` are the feed's columns so far, and those that are used."""

    def __init__(self, mapping: FeedMapping, repairs: Counter[str]) -> None:
        self.mapping = mapping
        self.columns: dict[str, None] = {}
        self.used: set[str] = set()
        self._mapped: set[str] = set()
        self._repairs = repairs
        self._plans: dict[tuple[str, ...], _ColumnPlan] = {}
        self._currency = mapping.defaults.get("currency")
        self._defaults = [(name, value) for name, value in mapping.defaults.items() if name != "currency"]

    def apply(self, record: Record) -> RawProduct:
        """Return the product in a record, under the standard names."""
        values = record.values
        plan = self.plan_columns(tuple(values))
        raw = RawProduct(record.line, fallback_currency=self._currency)
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

    def plan_columns(self, columns: tuple[str, ...]) -> "_ColumnPlan":
        """Return how to read records with these columns, and add them to `columns`."""
        plan = self._plans.get(columns)
        if plan is None:
            if len(self._plans) >= 1000:  # every record has its own columns: bound the memory
                self._plans.clear()
            plan = self._plans[columns] = _ColumnPlan.make(self.mapping, columns)
            self.used |= plan.used
            self._mapped |= plan.mapped
            if len(self.columns) < 10_000:
                self.columns.update(dict.fromkeys(columns))
        return plan

    def check(self) -> None:
        """Raise BadInput if the columns so far, if any, lack an id, or all of title, description and image."""
        if not self.columns:
            return
        columns = ", ".join(list(self.columns)[:40]) or "none"
        hint = f"columns of the feed: {columns}; name the column in a mapping, under [columns]: "
        if "item_id" not in self._mapped:
            raise BadInput(f'the feed has no column for item_id; {hint}item_id = "your column"', "item_id")
        if not self._mapped & {"title", "description", "images"}:
            raise BadInput(
                f'the feed has no column for title, description or image; {hint}title = "your column"', "title"
            )

    def _members(self, value: object) -> Iterable[tuple[str, object]]:
        if isinstance(value, str) and value.strip():
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = False
        if isinstance(value, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
            value = dict(value)  # a Parquet map
        if isinstance(value, dict):
            return [(str(name), member) for name, member in value.items()]
        self._repairs["attributes_unreadable"] += not _blank(value)
        return ()


@dataclass(slots=True)
class _ColumnPlan:
    """A mapping restricted to the columns that a feed has."""

    single: list[tuple[str, str]]
    several: list[tuple[str, list[str]]]
    images: list[ColumnSource]
    attributes: list[tuple[str, ColumnSource]]
    mapped: set[str]
    used: set[str]

    @classmethod
    def make(cls, mapping: FeedMapping, columns: tuple[str, ...]) -> "_ColumnPlan":
        existing = {normalize_name(column): column for column in reversed(columns)} | {
            column: column for column in columns
        }

        def present(sources: Iterable[ColumnSource]) -> list[ColumnSource]:
            matches = [
                (existing.get(source.column) or existing.get(normalize_name(source.column)), source)
                for source in sources
            ]
            return [ColumnSource(column, source.split, source.json) for column, source in matches if column]

        bound = {name: present(mapping.columns.get(name, ())) for name in (*ITEM_FIELDS, "image")}
        images = bound.pop("image") + bound.pop("images")
        images = list({source.column: source for source in images}.values())
        attributes = [(name, source) for name, column in mapping.attributes.items() for source in present([column])]
        attributes.sort(key=lambda pair: pair[1].json)  # a named attribute overrides a JSON member
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


def _mapping(toml: dict[str, Any], file: str) -> FeedMapping:
    check_names(toml, [part.name for part in fields(FeedMapping)] + ["split"], file)
    tables = {name: toml.get(name, {}) for name in ("columns", "split", "attributes", "defaults")}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise BadInput(f"{file}: {name} must be a table, written [{name}]", name)
    contract = [*ITEM_FIELDS, "image"]
    check_names(tables["columns"], contract, f"{file} [columns]")
    check_names(tables["split"], contract, f"{file} [split]")
    check_names(
        tables["defaults"], [name for name in ITEM_FIELDS if name not in ("item_id", "images")], f"{file} [defaults]"
    )
    columns = {}
    for name in tables["columns"] | tables["split"]:
        split = tables["split"].get(name, "")
        if not isinstance(split, str):
            raise BadInput(f"{file} [split] {name} is {split!r}: give a text in quotes", name)
        value = tables["columns"].get(name, name)
        sources = value if isinstance(value, list) else [value]
        columns[name] = tuple(_source(source, f"{file} [columns] {name}", split) for source in sources)
    attributes = {name: _source(value, f"{file} [attributes] {name}") for name, value in tables["attributes"].items()}
    texts = {name: toml.get(name, "") for name in ("encoding", "delimiter", "format")}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise BadInput(f"{file}: {name} is {text!r}: give a text in quotes", name)
    if texts["format"]:
        check_names([texts["format"]], FORMATS, f"{file}: format")
    defaults = {name: str(value) for name, value in tables["defaults"].items()}
    return FeedMapping(columns, attributes, defaults, **texts)


def _category_tree(table: object, mapping: Path, file: Path | None) -> dict[str, str]:
    names = dict(zip(("id", "name", "parent"), COLUMNS, strict=True))
    where = f"{mapping.name} [category_tree]"
    if not isinstance(table, dict) or not all(isinstance(value, str) for value in table.values()):
        raise BadInput(f'{where} must be a table of texts, for example file = "categories.csv"', "category_tree")
    check_names(table, ["file", *names], where)
    if "file" not in table:
        raise BadInput(f'{where} has no file: name the table of categories, file = "categories.csv"', "category_tree")
    one, name, parent = (str(table.get(key, default)) for key, default in names.items())
    return read_category_tree(file or mapping.parent / table["file"], (one, name, parent))


def _source(value: object, where: str, split: str = "") -> ColumnSource:
    if isinstance(value, str):
        return ColumnSource(value, split)
    if not isinstance(value, dict) or not isinstance(value.get("column"), str):
        raise BadInput(f'{where}: give a column\'s name in quotes, or {{ column = "name", split = "|" }}', where)
    check_names(value, [part.name for part in fields(ColumnSource)], where)
    source = ColumnSource(value["column"], value.get("split", split), value.get("json", False))
    if not isinstance(source.split, str) or not isinstance(source.json, bool):
        raise BadInput(f"{where}: split must be a text in quotes, json must be true or false", where)
    return source
