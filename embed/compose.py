"""What of an item the text encoder reads: one string, the telling things first."""

from embed.catalogue import Item

# An encoder reads a few hundred tokens and weighs the mean of them: what names the product comes first, prose last.
ATTRIBUTES_READ = 8
VALUE_LENGTH = 80


def compose_text(item: Item) -> str:
    """Title with colour-like attributes, brand, category and description, or '' when the item has no words at all."""
    values = [
        ", ".join(values)
        for values in list(item.attributes.values())[:ATTRIBUTES_READ]
        if values and sum(map(len, values)) <= VALUE_LENGTH
    ]
    category = (item.category or "").replace("/", " ")
    parts = [item.title, " ".join(values), item.brand, category, item.description]
    return ". ".join(part for part in parts if part)
