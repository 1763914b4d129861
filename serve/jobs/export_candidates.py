"""Candidates of many shoppers at once, written to Parquet for other services."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serve.core.settings import RETRIEVERS, Settings
from serve.engine.user_context import load_user_context
from serve.live.replica import open_engine
from serve.storage.event_log import open_event_log

AT_ONCE = 200  # shoppers of a row group
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        *(pa.field(source, pa.float32()) for source in RETRIEVERS),
    ]
)


@dataclass(frozen=True)
class BulkReport:
    """How much was written where, from which release."""

    file: str
    release: str
    users: int
    rows: int
    seconds: float


def write_candidates(
    settings: Settings,
    file: Path,
    users: Path | None,
    k: int,
    filter_: Mapping[str, Any],
    progress: Callable[[str, float, float, str], None] | None = None,
) -> BulkReport:
    """The k best candidates of each user listed in `users`, or of all in the log, in `file`; whole or not at all.

    A row has the blended score, and the score in each source, null where that source had nothing to go by.
    """
    started = time.perf_counter()
    engine, store = open_engine(settings), open_event_log(settings)
    wanted = list(store.users()) if users is None else list(filter(None, users.read_text("utf-8").split("\n")))
    fresh = file.with_name(f".{file.name}.tmp")
    rows = 0
    with pq.ParquetWriter(fresh, SCHEMA) as writer:
        for start in range(0, len(wanted), AT_ONCE):
            columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
            for user_id in wanted[start : start + AT_ONCE]:
                known = load_user_context(store, settings, user_id)
                found = engine.candidates(known.events, k, known.excluded, filter_, known.preferences.blocked)
                count = len(found.items)
                columns["user_id"] += [user_id] * count
                columns["item_id"] += [engine.view.text(number) for number in found.items.tolist()]
                columns["place"] += range(1, count + 1)
                columns["score"] += found.total.tolist()
                for source in RETRIEVERS:
                    of = found.scores.get(source)
                    columns[source] += [None] * count if of is None else of.tolist()
                rows += count
            writer.write_table(pa.table(columns, SCHEMA))
            if progress:
                progress("candidates", min(start + AT_ONCE, len(wanted)), len(wanted), "users")
    fresh.replace(file)
    store.close()
    took = round(time.perf_counter() - started, 2)
    return BulkReport(str(file), engine.view.release.name, len(wanted), rows, took)
