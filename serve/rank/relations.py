"""Relations: which items go with which by the shop's own table, `relations.csv` beside the rules.

    item_id,relation,related_id
    MACHINE-1,accessory,FILTER-9

The names of relations are the shop's. Rows that lack a value are left out and counted.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embed.errors import BadInput
from embed.records import Record, open_source, read_table

FILE = "relations.csv"
COLUMNS = ("item_id", "relation", "related_id")
MOST = 1_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Relations:
    """By relation and item id the ids of the items related to it, and how many rows were left out."""

    related: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    left_out: int = 0

    def to(self, relation: str, item_ids: Iterable[str]) -> set[str]:
        """The items that stand in a relation to any of some items."""
        table = self.related.get(relation, {})
        return {other for item_id in item_ids for other in table.get(item_id, ())}


def read_relations(path: Path) -> Relations:
    """The table of a file, or none where there is no file; raises BadInput, Damaged where it is no such table."""
    if not path.exists():
        return Relations()
    found: dict[str, dict[str, list[str]]] = {}
    left_out = count = 0
    with open_source(path, "relations") as source:
        table = read_table(source)
        for name in COLUMNS:
            if name not in table.columns:
                raise BadInput(f"{path.name} has no column {name}: it needs {', '.join(COLUMNS)}", name)
        for record in table:
            values = [str(record.values[name]).strip() for name in COLUMNS] if isinstance(record, Record) else []
            if not values or not all(values):
                left_out += 1
                continue
            count += 1
            if count > MOST:
                raise BadInput(f"{path.name} has more than {MOST:,} rows", "relations")
            item_id, relation, related_id = values
            found.setdefault(relation, {}).setdefault(item_id, []).append(related_id)
    if left_out:
        _log.warning("%s: %d rows without item_id, relation or related_id are left out", path.name, left_out)
    return Relations(
        {relation: {one: tuple(others) for one, others in of.items()} for relation, of in found.items()}, left_out
    )
