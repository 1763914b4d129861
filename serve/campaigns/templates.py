"""Templates: titles, reasons and advertisements from an item's catalogue entry, in five languages.

They state only what the entry has: title, colour, material, category and price.
"""

import html
from collections.abc import Mapping
from typing import NamedTuple

from embed.catalogue import Item

STYLES = ("title", "reason", "ad")
LANGUAGES = ("en", "de", "fr", "es", "it")
_COLORS = ("color", "colour", "farbe", "couleur", "colore")
_MATERIALS = ("material", "matiere", "materiale")
MAX_MATERIALS = 3
MAX_TITLE = 160


class Phrases(NamedTuple):
    """The phrases of a language."""

    color: str
    material: str
    segment: str
    category: str


_PHRASES: Mapping[str, Phrases] = {
    "en": Phrases("in {}", "Material: {}.", "For {}: ", "From {}."),
    "de": Phrases("in {}", "Material: {}.", "Für {}: ", "Aus {}."),
    "fr": Phrases("en {}", "Matière : {}.", "Pour {} : ", "Catégorie {}."),
    "es": Phrases("en {}", "Material: {}.", "Para {}: ", "De {}."),
    "it": Phrases("in {}", "Materiale: {}.", "Per {}: ", "Da {}."),
}


def fill_template(item: Item, style: str, language: str, segment: str = "") -> str:
    """Return a text for an item.

    Args:
        item: the item.
        style: the kind of text: title, reason or ad.
        language: the language of the text.
        segment: the user segment that reasons and advertisements address, if any.
    """
    phrases = _PHRASES[language]
    title = _clean(item.title or item.category or item.item_id)[:MAX_TITLE].strip()
    if item.brand and _clean(item.brand).casefold() not in title.casefold():
        title = f"{_clean(item.brand)} {title}"
    color = _first(item, _COLORS)
    colored = title
    if color and color.casefold() not in title.casefold():
        colored = f"{title} {phrases.color.format(color if language == 'de' else color.lower())}"
    if style == "title":
        return colored
    price = "" if item.price is None else _money(item, language)
    category = _clean((item.category or "").rpartition("/")[2])
    parts = [f"{colored}."]
    if category and category.casefold() not in title.casefold():
        parts.append(phrases.category.format(category))
    if style == "ad" and (materials := _values(item, _MATERIALS)[:MAX_MATERIALS]):
        parts.append(phrases.material.format(", ".join(materials)))
    if price:
        parts.append(f"{price}.")
    text = " ".join(parts)
    return phrases.segment.format(segment) + text if segment else text


def _values(item: Item, names: tuple[str, ...]) -> list[str]:
    """Return an item's values of an attribute under any of its names, each once."""
    cleaned = [
        _clean(value)
        for name, values in item.attributes.items()
        if name.casefold() in names
        for value in values
        if value
    ]
    return list(dict.fromkeys(cleaned))


def _first(item: Item, names: tuple[str, ...]) -> str:
    return next(iter(_values(item, names)), "")


def _money(item: Item, language: str) -> str:
    assert item.price is not None  # noqa: S101
    number = f"{item.price:.2f}"
    if language != "en":
        number = number.replace(".", ",")
    return f"{number} {item.currency}" if item.currency else number


def _clean(text: str) -> str:
    return " ".join(html.unescape(text).split())
