"""Audiences as Parquet, for whatever sends the messages."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

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
    """Write the members, the likeliest first; whole or not at all."""
    rows = [
        {
            "user_id": member.user_id,
            "place": place,
            "score": member.score,
            "chance": member.probability,
            "held_out": member.held_out,
            "campaign": campaign,
        }
        for place, member in enumerate(audience.members, 1)
    ]
    fresh = file.with_name(f".{file.name}.tmp")
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), fresh)
    fresh.replace(file)
