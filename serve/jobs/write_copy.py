"""Writes texts for many items at once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import orjson

from embed.durable import write_file
from serve.campaigns.copywriter import Copywriter, GeneratedCopy, brands_of
from serve.campaigns.templates import LANGUAGES, STYLES
from serve.core.errors import BadRequest
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.live.replica import open_engine

MAX_SHOWN = 10  # texts in the report


@dataclass(frozen=True)
class CopyReport:
    """How many texts were written, by generator, and how many model texts were refused; `texts` are the first ones."""

    file: str | None
    texts: Sequence[GeneratedCopy]
    written: int
    by: dict[str, int]
    refused: int


def write_copies(
    settings: Settings,
    item_ids: Sequence[str],
    style: str,
    language: str,
    segment: str,
    file: Path | None,
    progress: Progress | None = None,
) -> CopyReport:
    """Write a text for each item.

    Args:
        settings: the store, and the text generator.
        item_ids: the items; without any, all visible items of the active release.
        style: the kind of text.
        language: the language of the texts.
        segment: the user segment that the texts address, if any.
        file: the JSONL file to write, as a whole or not at all.
        progress: called with the progress.
    """
    for name, value, supported in (("style", style, STYLES), ("language", language, LANGUAGES)):
        if value not in supported:
            raise BadRequest(f"{name} {value!r} is not supported: use one of {', '.join(supported)}", name)
    engine = open_engine(settings)
    snapshot = engine.snapshot
    copywriter = Copywriter(settings.copywriting, brands_of(snapshot.release.catalogue))
    item_indices = [engine.item_index(item_id) for item_id in item_ids]
    if not item_ids:
        item_indices = np.setdiff1d(snapshot.everything, snapshot.deleted).tolist()
    by: dict[str, int] = {}
    first: list[GeneratedCopy] = []
    refused = 0
    lines: list[bytes] = []
    for done, item_index in enumerate(item_indices, 1):
        copy = copywriter.write(snapshot.item(item_index), style, language, segment)
        by[copy.by] = by.get(copy.by, 0) + 1
        refused += bool(copy.refused)
        first += [copy] if len(first) < MAX_SHOWN else []
        lines.append(orjson.dumps(asdict(copy)) + b"\n")
        if progress:
            progress("write texts", done, len(item_indices), "texts")
    if file is not None:
        write_file(file, b"".join(lines))
    return CopyReport(None if file is None else str(file), first, len(item_indices), by, refused)
