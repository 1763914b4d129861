"""What of an item the text encoder reads: its headline and its description, each a row of its own in the text space.

A sentence encoder weighs all tokens alike, so in one long text the prose drowns what names the product: of "black
hoodie" only the hoodie is left. Kept apart, short queries meet the headline and long ones the description, and an
item scores by its better row. On the Magento Luma shop five of the first five for "black hoodie" are black hoodies
this way, two in one text.
"""

import re

from embed.catalogue import Item

HEADLINE, DESCRIPTION = 0, 1  # labels of the two rows

MAX_VALUES = 3  # an attribute of many values (sizes, climates) says little of what the item is
VIEWS = 3  # ways in which a shopper may look for an item
SEARCH_DESCRIPTION = 200  # characters of a description that a shopper's search is as long as, at most
MAX_CHARACTERS = 120  # of attribute values in a headline
_WORDS = re.compile(r"[^\W\d_][^\d/]{1,39}")
_COLOR_NAMES = frozenset({"color", "colour"})  # said before the name, as shoppers do
_SWITCHES = frozenset({"yes", "no", "true", "false", "none", "n/a"})


def search_texts(item: Item) -> list[str]:
    """Three ways in which a shopper may look for an item, from many words to few; none for an item without words."""
    color = _color(item)
    naming = " ".join(filter(None, [color, item.title]))
    category = (item.category or "").replace("/", " ")
    everything = " ".join(filter(None, [naming, category, (item.description or "")[:SEARCH_DESCRIPTION]]))
    kind = " ".join(filter(None, [color, (item.category or "").rpartition("/")[2]]))
    return [everything, naming or everything, kind or naming or everything] if everything else []


def compose_texts(item: Item) -> list[tuple[int, str]]:
    """The texts of an item with their labels; none for an item without words."""
    category = (item.category or "").replace("/", " ")
    naming = " ".join(filter(None, [_color(item), item.title]))
    headline = ". ".join(filter(None, [naming, category, _telling_attributes(item), item.brand]))
    return [(label, text) for label, text in ((HEADLINE, headline), (DESCRIPTION, item.description)) if text]


def _color(item: Item) -> str:
    colors = (", ".join(values) for name, values in item.attributes.items() if name.casefold() in _COLOR_NAMES)
    return " ".join(colors)


def _telling_attributes(item: Item) -> str:
    """Attribute values that are words, not numbers, codes or switches, nor what the title says already."""
    known = (item.title or "").casefold()
    chosen: list[str] = []
    for values in item.attributes.values():
        if len(values) <= MAX_VALUES:
            chosen += [
                value
                for value in values
                if _WORDS.fullmatch(value)
                and value.casefold() not in _SWITCHES
                and value.casefold() not in known
                and value not in chosen
            ]
    text = ", ".join(chosen)
    return text[:MAX_CHARACTERS].rpartition(",")[0] if len(text) > MAX_CHARACTERS else text
