"""Texts for many items at once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from serve.campaigns.copywriter import Copywriter, GeneratedCopy, brands_of
from serve.campaigns.templates import LANGUAGES, STYLES
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.live.replica import open_engine

SHOWN = 10


@dataclass(frozen=True)
class CopyReport:
    """How many texts, how many by whom, and for how many another writer's was refused; `texts` are the first."""

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
    progress: Callable[[str, float, float, str], None] | None = None,
) -> CopyReport:
    """Texts of a style for some items, or for all, in a JSONL file if one is wanted; whole or not at all."""
    for name, value, known in (("style", style, STYLES), ("language", language, LANGUAGES)):
        if value not in known:
            raise BadRequest(f"{name} {value!r} is not known: use one of {', '.join(known)}", name)
    engine = open_engine(settings)
    writer = Copywriter(settings.copywriting, brands_of(engine.view.release.catalogue))
    numbers = [engine.item_index(item_id) for item_id in item_ids] or range(engine.view.items)
    fresh = None if file is None else file.with_name(f".{file.name}.tmp")
    by: dict[str, int] = {}
    shown: list[GeneratedCopy] = []
    refused = 0
    lines: list[bytes] = []
    for done, number in enumerate(numbers, 1):
        made = writer.write(engine.view.item(number), style, language, segment)
        by[made.by] = by.get(made.by, 0) + 1
        refused += bool(made.refused)
        shown += [made] if len(shown) < SHOWN else []
        lines.append(orjson.dumps(asdict(made)) + b"\n")
        if progress:
            progress("copy", done, len(numbers), "texts")
    if fresh is not None and file is not None:
        fresh.write_bytes(b"".join(lines))
        fresh.replace(file)
    return CopyReport(None if file is None else str(file), shown, len(numbers), by, refused)
