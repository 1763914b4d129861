"""Item relations: which items go with which by the shop's own table, `relations.csv` beside the rules.

    item_id,relation,related_id
    MACHINE-1,accessory,FILTER-9

The shop chooses the names of relations. Rows without a value in each column are skipped and counted.
"""

import csv
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embed.catalogue import Catalogue
from embed.durable import write_file
from embed.errors import BadInput
from embed.records import Record, open_record_file, read_table

FILE = "relations.csv"
COLUMNS = ("item_id", "relation", "related_id")
MAX_ROWS = 1_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemRelations:
    """By relation and item id the ids of the related items, and the number of skipped rows."""

    related: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    skipped: int = 0

    def related_to(self, relation: str, item_ids: Iterable[str]) -> set[str]:
        """Return the items that have a relation to any of some items."""
        table = self.related.get(relation, {})
        return {other for item_id in item_ids for other in table.get(item_id, ())}


@dataclass(frozen=True)
class ImportedLinks:
    """How many rows were read, how many name an unknown item, and how many links each relation has now."""

    file: str
    read: int
    unknown: int
    links: Mapping[str, int]


def read_relations(path: Path) -> ItemRelations:
    """Read the table of a file, an empty one if it does not exist; raises BadInput or Damaged if it is invalid."""
    if not path.exists():
        return ItemRelations()
    related: dict[str, dict[str, list[str]]] = {}
    skipped = count = 0
    with open_record_file(path, "relations") as source:
        table = read_table(source)
        for name in COLUMNS:
            if name not in table.columns:
                raise BadInput(f"{path.name} has no column {name!r}: it needs {', '.join(COLUMNS)}", name)
        for record in table:
            values = [str(record.values[name]).strip() for name in COLUMNS] if isinstance(record, Record) else []
            if not values or not all(values):
                skipped += 1
                continue
            count += 1
            if count > MAX_ROWS:
                raise BadInput(
                    f"{path.name} has more than {MAX_ROWS:,} rows: remove relations that no rule uses", "relations"
                )
            item_id, relation, related_id = values
            related.setdefault(relation, {}).setdefault(item_id, []).append(related_id)
    if skipped:
        _log.warning("%s: skipped %d rows that lack item_id, relation or related_id", path.name, skipped)
    return ItemRelations(
        {relation: {one: tuple(others) for one, others in of.items()} for relation, of in related.items()}, skipped
    )


def import_links(
    path: Path, catalogue: Catalogue, into: Path, columns: tuple[str, str, str], attribute: str = ""
) -> ImportedLinks:
    """Import links from a file into the table `into`, replacing those of the same relations.

    Args:
        path: The file with the links.
        catalogue: The items that links may name.
        into: The table to write, `relations.csv`.
        columns: The columns of an item, a related item and their relation; without the last, all links are `related`.
        attribute: If given, as `parent_sku`, the links name products by its value, and every item of one product is
            linked to every item of the other.

    Raises:
        BadInput: A column is missing.
    """
    one, other, relation = columns
    members: dict[str, list[str]] = {}
    for batch in catalogue.batches():
        for item in batch:
            for name in item.attributes.get(attribute, ()) if attribute else (item.item_id,):
                members.setdefault(name, []).append(item.item_id)
    links: dict[str, dict[tuple[str, str], None]] = {}
    read = unknown = 0
    with open_record_file(path, "links") as source:
        table = read_table(source)
        for name in filter(None, (one, other, relation)):
            if name not in table.columns:
                raise BadInput(f"{path.name} has no column {name!r}: it has {', '.join(table.columns)}", name)
        for record in table:
            read += 1
            values = record.values if isinstance(record, Record) else {}
            left, right = (members.get(str(values.get(name, "")).strip(), []) for name in (one, other))
            called = str(values.get(relation, "")).strip() if relation else "related"
            if not left or not right or not called:
                unknown += 1
                continue
            links.setdefault(called, {}).update(dict.fromkeys((a, b) for a in left for b in right if a != b))
    kept = {name: of for name, of in read_relations(into).related.items() if name not in links}
    rows = [(a, name, b) for name, of in kept.items() for a, others in of.items() for b in others]
    rows += [(a, name, b) for name, pairs in links.items() for a, b in pairs]
    text = io.StringIO()
    csv.writer(text).writerows([COLUMNS, *rows])
    write_file(into, text.getvalue().encode())
    return ImportedLinks(str(into), read, unknown, {name: len(pairs) for name, pairs in sorted(links.items())})
