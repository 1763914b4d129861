"""The copywriter: a text by whoever is set to write, or the grammar's where that one states what is not so."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from embed.catalogue import Catalogue, Item
from serve.campaigns.fact_checker import FactChecker, Unsupported
from serve.campaigns.templates import compose
from serve.campaigns.text_generators import TextGenerator, writer_of
from serve.core.errors import StoreUnavailable
from serve.core.settings import CopySettings

_log = logging.getLogger("vetrina")


@dataclass(frozen=True)
class GeneratedCopy:
    """A text for an item, who wrote it, and what another writer's text was refused for."""

    item_id: str
    text: str
    by: str
    refused: Sequence[Unsupported] = ()


class Copywriter:
    """Writes for the items of a shop; safe in several threads."""

    def __init__(self, settings: CopySettings, brands: Sequence[str]) -> None:
        self._writer: TextGenerator | None = writer_of(settings)
        self._checker = FactChecker(brands)

    def write(self, item: Item, style: str, language: str, segment: str = "") -> GeneratedCopy:
        """A text that states nothing that the item's entry, or the caller's word for the segment, does not have."""
        refused: list[Unsupported] = []
        if self._writer is not None:
            try:
                text = self._writer.write(item, style, language, segment)
                refused = self._checker.check(text, item, segment, language)
                if not refused:
                    return GeneratedCopy(item.item_id, text, self._writer.name)
                said = ", ".join(f"{each.kind} {each.words!r}" for each in refused[:5])
                _log.warning(
                    "copy of %s for item %s is not used: unsupported %s", self._writer.name, item.item_id, said
                )
            except StoreUnavailable as error:
                refused = [Unsupported("writer", str(error))]
                _log.warning("copy for item %s is the grammar's: %s", item.item_id, error)
        return GeneratedCopy(item.item_id, compose(item, style, language, segment), "grammar", refused)


def brands_of(catalogue: Catalogue) -> list[str]:
    """Every brand of a catalogue."""
    return sorted({brand for brand in catalogue.column("brand").unique().to_pylist() if brand})
