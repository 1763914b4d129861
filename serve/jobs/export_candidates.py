"""Exports candidates of many users to Parquet, for other services."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from embed.durable import atomic_path
from serve.core.progress import Progress
from serve.core.settings import Settings
from serve.engine.user_context import load_user_context
from serve.live.replica import open_engine
from serve.recommend.retrieval.retriever_registry import RETRIEVERS
from serve.storage.event_log import open_event_log

BATCH = 200  # users per row group
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        *(pa.field(retriever, pa.float32()) for retriever in RETRIEVERS),
    ]
)


@dataclass(frozen=True)
class CandidatesReport:
    """The number of users and rows written to a file, and the release that they come from."""

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
    progress: Progress | None = None,
) -> CandidatesReport:
    """Write the k best candidates of users to a Parquet file, in one atomic step.

    A row has the score of the linear model and the score of each retriever, null where a retriever has none.

    Args:
        settings: Settings.
        file: Parquet file to write.
        users: Text file with a user id per line; None for all users of the event log.
        k: Candidates per user.
        filter_: Filter that candidates pass.
        progress: Called as users are done.

    Returns:
        What was written.
    """
    started = time.perf_counter()
    engine, store = open_engine(settings), open_event_log(settings)
    user_ids = list(store.users()) if users is None else list(filter(None, users.read_text("utf-8").split("\n")))
    rows = 0
    with atomic_path(file) as temporary, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for start in range(0, len(user_ids), BATCH):
            columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
            for user_id in user_ids[start : start + BATCH]:
                user = load_user_context(store, settings, user_id)
                candidates = engine.candidates(user.events, k, user.excluded_items, filter_, user.preferences.blocked)
                count = len(candidates.items)
                columns["user_id"] += [user_id] * count
                columns["item_id"] += [engine.snapshot.item_id(item_index) for item_index in candidates.items.tolist()]
                columns["place"] += range(1, count + 1)
                columns["score"] += candidates.total.tolist()
                for retriever in RETRIEVERS:
                    scores = candidates.scores.get(retriever)
                    columns[retriever] += [None] * count if scores is None else scores.tolist()
                rows += count
            writer.write_table(pa.table(columns, SCHEMA))
            if progress:
                progress("candidates", min(start + BATCH, len(user_ids)), len(user_ids), "users")
    store.close()
    seconds = round(time.perf_counter() - started, 2)
    return CandidatesReport(str(file), engine.snapshot.release.name, len(user_ids), rows, seconds)
