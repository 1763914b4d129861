"""Writes audiences as Parquet files, for the systems that send the messages."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from embed.durable import atomic_path
from serve.campaigns.audience import Audience

SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("place", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("chance", pa.float32(), nullable=False),
        pa.field("held_out", pa.bool_(), nullable=False),
        pa.field("campaign", pa.string(), nullable=False),
    ]
)


def write_audience(file: Path, audience: Audience, campaign: str) -> None:
    """Write the members, most probable first, as a whole file or none.

    The column `place` is the rank from 1, `chance` the predicted probability of an interaction.
    """
    rows = [
        {
            "user_id": member.user_id,
            "place": rank,
            "score": member.score,
            "chance": member.probability,
            "held_out": member.held_out,
            "campaign": campaign,
        }
        for rank, member in enumerate(audience.members, 1)
    ]
    with atomic_path(file) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), temporary)
