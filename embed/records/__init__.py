"""Files of records, whatever is recorded in them: CSV, JSONL or Parquet, plain or gzipped, read as a stream."""

from embed.records.delimited import DelimitedReader
from embed.records.mapping_file import known_names, plain_name, read_toml
from embed.records.reader import Parquet, RecordFile, open_source, read_jsonl, read_parquet, read_table
from embed.records.record import MAX_RECORD, Record, Reject

__all__ = [
    "MAX_RECORD",
    "DelimitedReader",
    "Parquet",
    "Record",
    "RecordFile",
    "Reject",
    "known_names",
    "open_source",
    "plain_name",
    "read_jsonl",
    "read_parquet",
    "read_table",
    "read_toml",
]
