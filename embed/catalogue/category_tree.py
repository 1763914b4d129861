"""Category trees: a shop's own table of categories, by which a feed's category numbers become paths.

id,name,parent_id
10,Men,
14,Hoodies,10            -> Men/Hoodies
"""

from pathlib import Path

from embed.errors import BadInput
from embed.records import Record, open_source, read_table

COLUMNS = ("id", "name", "parent_id")
MOST = 1_000_000


def read_category_tree(path: Path, columns: tuple[str, str, str] = COLUMNS) -> dict[str, str]:
    """The path of each category by its id; raises BadInput where something is missing, and for a circle.

    `columns` are those of an id, a name and the parent's id, which is empty for what stands at the top.
    """
    names: dict[str, tuple[str, str]] = {}
    with open_source(path, "category_tree") as source:
        table = read_table(source)
        for column in columns:
            if column not in table.columns:
                raise BadInput(
                    f"{path.name} has no column {column}: it has {', '.join(table.columns)}", "category_tree"
                )
        for record in table:
            values = [str(record.values[column]).strip() for column in columns] if isinstance(record, Record) else []
            if not values or not values[0] or not values[1]:
                raise BadInput(f"{path.name} has a category without {columns[0]} or {columns[1]}", "category_tree")
            names[values[0]] = (values[1].replace("/", " "), values[2])
            if len(names) > MOST:
                raise BadInput(f"{path.name} has more than {MOST:,} categories", "category_tree")
    paths: dict[str, str] = {}
    for number in names:
        chain: list[str] = []
        at = number
        while at and at not in paths:
            if at not in names:
                raise BadInput(f"{path.name}: the parent {at!r} of {names[chain[-1]][0]!r} is missing", "category_tree")
            if at in chain:
                raise BadInput(f"{path.name}: category {at!r} is its own parent, by way of others", "category_tree")
            chain.append(at)
            at = names[at][1]
        above = paths.get(at, "")
        for each in reversed(chain):
            above = f"{above}/{names[each][0]}" if above else names[each][0]
            paths[each] = above
    return paths
