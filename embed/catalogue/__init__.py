"""The catalogue: what a product is, how a feed is read, mapped and cleaned into one, and how it is kept."""

from embed.catalogue.catalogue import Catalogue, as_batch
from embed.catalogue.changes import PATCHABLE, fold, read_id, read_item, read_patch
from embed.catalogue.cleaning import clean, is_blank
from embed.catalogue.edits import Change, Edit, apply_patch
from embed.catalogue.feed import Feed, open_feed
from embed.catalogue.ingest import IngestReport, check_items, current_edits, ingest, read_report
from embed.catalogue.item import ITEM_SCHEMA, Item
from embed.catalogue.mapping import ColumnSource, Mapping
from embed.catalogue.price import Price, parse_price
from embed.catalogue.raw import Raw
from embed.records import Record, Reject

__all__ = [
    "ITEM_SCHEMA",
    "PATCHABLE",
    "Catalogue",
    "Change",
    "ColumnSource",
    "Edit",
    "Feed",
    "IngestReport",
    "Item",
    "Mapping",
    "Price",
    "Raw",
    "Record",
    "Reject",
    "apply_patch",
    "as_batch",
    "check_items",
    "clean",
    "current_edits",
    "fold",
    "ingest",
    "is_blank",
    "open_feed",
    "parse_price",
    "read_id",
    "read_item",
    "read_patch",
    "read_report",
]
