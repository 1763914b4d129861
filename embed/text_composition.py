"""Composes the texts that the text encoder reads: a headline and a description, each with a row in the text space.

A sentence encoder weighs all tokens alike, so in one long text the description drowns what names the product: of "black
hoodie" only the hoodie is left. Kept apart, short queries match the headline and long ones the description, and an
item scores by its better row. On the Magento Luma shop, five of the first five results for "black hoodie" are black
hoodies with two texts, and two of five with one text.
"""

import re

from embed.catalogue import Item

HEADLINE, DESCRIPTION = 0, 1  # labels of the two rows

MAX_VALUES = 3  # an attribute with more values (sizes, climates) says little about what the item is
TEXT_VIEWS = 3  # search texts of an item
MAX_SEARCH_DESCRIPTION = 200  # characters of the description in a search text, as long as a user's query may be
MAX_ATTRIBUTE_CHARACTERS = 120  # of attribute values in a headline
_WORDS = re.compile(r"[^\W\d_][^\d/]{1,39}")
_COLOR_NAMES = frozenset({"color", "colour"})  # put before the name, as in users' queries
_SWITCHES = frozenset({"yes", "no", "true", "false", "none", "n/a"})


def search_texts(item: Item) -> list[str]:
    """Return three queries that a user may find the item by, from long to short; none for an item without text."""
    color = _color(item)
    name_text = " ".join(filter(None, [color, item.title]))
    category = (item.category or "").replace("/", " ")
    full_text = " ".join(filter(None, [name_text, category, (item.description or "")[:MAX_SEARCH_DESCRIPTION]]))
    short_text = " ".join(filter(None, [color, (item.category or "").rpartition("/")[2]]))
    return [full_text, name_text or full_text, short_text or name_text or full_text] if full_text else []


def compose_texts(item: Item) -> list[tuple[int, str]]:
    """Return the texts of an item with their labels; none for an item without text."""
    category = (item.category or "").replace("/", " ")
    name_text = " ".join(filter(None, [_color(item), item.title]))
    headline = ". ".join(filter(None, [name_text, category, _descriptive_attributes(item), item.brand]))
    return [(label, text) for label, text in ((HEADLINE, headline), (DESCRIPTION, item.description)) if text]


def _color(item: Item) -> str:
    colors = (", ".join(values) for name, values in item.attributes.items() if name.casefold() in _COLOR_NAMES)
    return " ".join(colors)


def _descriptive_attributes(item: Item) -> str:
    """Return the attribute values that are words, without numbers, codes, switches and words of the title."""
    title = (item.title or "").casefold()
    chosen: list[str] = []
    for values in item.attributes.values():
        if len(values) <= MAX_VALUES:
            chosen += [
                value
                for value in values
                if _WORDS.fullmatch(value)
                and value.casefold() not in _SWITCHES
                and value.casefold() not in title
                and value not in chosen
            ]
    text = ", ".join(chosen)
    return text[:MAX_ATTRIBUTE_CHARACTERS].rpartition(",")[0] if len(text) > MAX_ATTRIBUTE_CHARACTERS else text
