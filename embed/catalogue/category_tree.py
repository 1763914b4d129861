"""Category trees: a shop's table of categories, which turns the category ids of a feed into paths.

id,name,parent_id
10,Men,
14,Hoodies,10            -> Men/Hoodies
"""

from pathlib import Path

from embed.errors import BadInput
from embed.records import Record, open_record_file, read_table

COLUMNS = ("id", "name", "parent_id")
MAX_CATEGORIES = 1_000_000


def read_category_tree(path: Path, columns: tuple[str, str, str] = COLUMNS) -> dict[str, str]:
    """Return the path of each category by its id; raises BadInput for missing values and for cycles.

    `columns` are the columns of id, name and parent id. The parent id of a top category is empty.
    """
    names: dict[str, tuple[str, str]] = {}
    with open_record_file(path, "category_tree") as source:
        table = read_table(source)
        for column in columns:
            if column not in table.columns:
                raise BadInput(
                    f"{path.name} has no column {column}: its columns are {', '.join(table.columns)}", "category_tree"
                )
        for record in table:
            values = [str(record.values[column]).strip() for column in columns] if isinstance(record, Record) else []
            if not values or not values[0] or not values[1]:
                raise BadInput(
                    f"{path.name} has a category without {columns[0]} or {columns[1]}: fill in both", "category_tree"
                )
            names[values[0]] = (values[1].replace("/", " "), values[2])
            if len(names) > MAX_CATEGORIES:
                raise BadInput(
                    f"{path.name} has more than {MAX_CATEGORIES:,} categories: remove unused ones", "category_tree"
                )
    paths: dict[str, str] = {}
    for category in names:
        chain: list[str] = []
        at = category
        while at and at not in paths:
            if at not in names:
                raise BadInput(
                    f"{path.name}: the parent {at!r} of {names[chain[-1]][0]!r} does not exist", "category_tree"
                )
            if at in chain:
                raise BadInput(f"{path.name}: category {at!r} is its own ancestor", "category_tree")
            chain.append(at)
            at = names[at][1]
        parent_path = paths.get(at, "")
        for child in reversed(chain):
            parent_path = f"{parent_path}/{names[child][0]}" if parent_path else names[child][0]
            paths[child] = parent_path
    return paths
