"""The copywriter: a text from the configured generator, or from a template where that text is refused."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from embed.catalogue import Catalogue, Item
from serve.campaigns.fact_checker import FactChecker, UnsupportedStatement
from serve.campaigns.templates import fill_template
from serve.campaigns.text_generators import TextGenerator, make_text_generator
from serve.core.errors import StoreUnavailable
from serve.core.settings_sections import CopySettings

TEMPLATE = "template"
_log = logging.getLogger("vetrina")


@dataclass(frozen=True)
class GeneratedCopy:
    """A text for an item, its generator, and the unsupported statements for which a model's text was refused."""

    item_id: str
    text: str
    by: str
    refused: Sequence[UnsupportedStatement] = ()


class Copywriter:
    """Writes texts for the items of a shop; safe in several threads."""

    def __init__(self, settings: CopySettings, brands: Sequence[str]) -> None:
        self._generator: TextGenerator | None = make_text_generator(settings)
        self._checker = FactChecker(brands)

    def write(self, item: Item, style: str, language: str, segment: str = "") -> GeneratedCopy:
        """Write a text that has only statements that the item's catalogue entry or the segment supports.

        Args:
            item: the item.
            style: the kind of text: title, reason or ad.
            language: the language of the text.
            segment: the user segment that it addresses, if any.
        """
        refused: list[UnsupportedStatement] = []
        if self._generator is not None:
            name = self._generator.name
            try:
                text = self._generator.write(item, style, language, segment)
                refused = self._checker.check(text, item, segment, language)
                if not refused:
                    return GeneratedCopy(item.item_id, text, name)
                statements = ", ".join(f"{each.kind} {each.words!r}" for each in refused[:5])
                _log.warning("text of %s for item %s is refused: unsupported %s", name, item.item_id, statements)
            except StoreUnavailable as error:
                refused = [UnsupportedStatement("generator", str(error))]
                _log.warning("text for item %s comes from a template: %s", item.item_id, error)
        return GeneratedCopy(item.item_id, fill_template(item, style, language, segment), TEMPLATE, refused)


def brands_of(catalogue: Catalogue) -> list[str]:
    """Return all brands of a catalogue."""
    return sorted({brand for brand in catalogue.column("brand").unique().to_pylist() if brand})
