"""The catalogue: items, how feeds are read, mapped and cleaned into items, and how versions are stored."""

from embed.catalogue.catalogue import Catalogue, as_batch
from embed.catalogue.change_parsing import PATCHABLE, parse_item, parse_item_id, parse_patch
from embed.catalogue.edit_folding import fold_edits
from embed.catalogue.edits import Edit, ItemChange, apply_patch
from embed.catalogue.feed import Feed, open_feed
from embed.catalogue.feed_mapping import ColumnSource, FeedMapping
from embed.catalogue.ingest import IngestReport, check_items, current_edits, ingest, read_report
from embed.catalogue.item import ITEM_SCHEMA, Item
from embed.catalogue.item_cleaning import clean_item, is_blank
from embed.catalogue.price import Price, parse_price
from embed.catalogue.raw_product import RawProduct
from embed.records import Record, Reject

__all__ = [
    "ITEM_SCHEMA",
    "PATCHABLE",
    "Catalogue",
    "ColumnSource",
    "Edit",
    "Feed",
    "FeedMapping",
    "IngestReport",
    "Item",
    "ItemChange",
    "Price",
    "RawProduct",
    "Record",
    "Reject",
    "apply_patch",
    "as_batch",
    "check_items",
    "clean_item",
    "current_edits",
    "fold_edits",
    "ingest",
    "is_blank",
    "open_feed",
    "parse_item",
    "parse_item_id",
    "parse_patch",
    "parse_price",
    "read_report",
]
