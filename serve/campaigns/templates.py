"""The grammar: titles, reasons and advertisements put together from an item's entry, in five languages.

It states nothing but what the entry has: the title, the colour, the material, what kind of thing it is, the price.
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
    """How a language says what an entry has."""

    color: str
    training_data: str
    segment: str
    kind: str


_PHRASES: Mapping[str, Phrases] = {
    "en": Phrases("in {}", "Material: {}.", "For {}: ", "From {}."),
    "de": Phrases("in {}", "Material: {}.", "Für {}: ", "Aus {}."),
    "fr": Phrases("en {}", "Matière : {}.", "Pour {} : ", "Catégorie {}."),
    "es": Phrases("en {}", "Material: {}.", "Para {}: ", "De {}."),
    "it": Phrases("in {}", "Materiale: {}.", "Per {}: ", "Da {}."),
}


def compose(item: Item, style: str, language: str, segment: str = "") -> str:
    """A text of a style for an item, in a language; a `segment` of shoppers is spoken to in reasons and ads."""
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
    kind = _clean((item.category or "").rpartition("/")[2])
    parts = [f"{colored}."]
    if kind and kind.casefold() not in title.casefold():
        parts.append(phrases.kind.format(kind))
    if style == "ad" and (materials := _values(item, _MATERIALS)[:MAX_MATERIALS]):
        parts.append(phrases.training_data.format(", ".join(materials)))
    if price:
        parts.append(f"{price}.")
    told = " ".join(parts)
    return phrases.segment.format(segment) + told if segment else told


def _values(item: Item, names: tuple[str, ...]) -> list[str]:
    """An item's values of an attribute by any of its names, each once."""
    found = [
        _clean(value)
        for name, values in item.attributes.items()
        if name.casefold() in names
        for value in values
        if value
    ]
    return list(dict.fromkeys(found))


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
