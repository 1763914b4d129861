"""Streaming readers of record files: CSV, JSONL or Parquet, plain or gzipped."""

from embed.records.delimited import DelimitedReader
from embed.records.mapping_file import check_names, normalize_name, read_toml
from embed.records.record import MAX_RECORD, Record, Reject
from embed.records.record_reader import ParquetRows, RecordFile, open_record_file, read_jsonl, read_parquet, read_table

__all__ = [
    "MAX_RECORD",
    "DelimitedReader",
    "ParquetRows",
    "Record",
    "RecordFile",
    "Reject",
    "check_names",
    "normalize_name",
    "open_record_file",
    "read_jsonl",
    "read_parquet",
    "read_table",
    "read_toml",
]
