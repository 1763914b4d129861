"""Cleans products: a raw product becomes an Item or a Reject. Repairs are counted by kind.

- **Ids** are text, trimmed. Whole numbers (JSON, Parquet) become their digits; other types are rejected.
- **Text** is kept byte for byte, except for surrounding space, NULs and unpaired surrogates. Text without a visible
  character is blank. `NaN`, `NA` and `None` are words (bread, Namibia, a perfume). `null` and `\\N` are how databases
  export a missing value, never a product's name: an item needs more than such a title.
- **Descriptions** lose their HTML and are cut to MAX_DESCRIPTION characters.
- An invalid value (a price `free`) is dropped and counted; the product stays.
- A product needs an id and at least one of title, description and image.
"""

import math
import re
import unicodedata
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal

from embed.catalogue.html_text import html_to_text
from embed.catalogue.item import Item
from embed.catalogue.price import parse_currency, parse_price
from embed.catalogue.raw_product import RawProduct
from embed.records import Reject

MAX_ID = 512
MAX_DESCRIPTION = 20_000
MAX_IMAGES = 20


def clean_item(raw: RawProduct, repairs: Counter[str]) -> Item | Reject:
    """Clean a product, or reject it; repairs are added to `repairs`."""
    item_id, code, reason = parse_identifier(raw.item_id)
    if code:
        return Reject(raw.line, code, reason, item_id, "item_id")
    title = _text(raw.title, repairs)
    description = _description(raw.description, repairs)
    images = _images(raw.images, repairs)
    if not (description or images) and (title is None or title in _NULLS):
        return Reject(raw.line, "nothing_to_embed", "no title, no description and no image", item_id, "title")
    price, currency = _price(raw, repairs)
    return Item(
        item_id,
        title,
        description,
        _category(raw.category, repairs),
        _text(raw.brand, repairs),
        price,
        currency,
        images,
        _attributes(raw.attributes, repairs),
        _available(raw.available, repairs),
        _text(raw.domain, repairs),
        _updated_at(raw.updated_at, repairs),
    )


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character: it is empty, space, or invisible characters."""
    return not _visible(text.strip())


_NULLS = frozenset({"null", "NULL", "Null", "\\N"})
_SURROGATE = re.compile("[\ud800-\udfff]")  # unpaired in a str; JSON allows it
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Letters and symbols without a visible form, besides those of the invisible categories.
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0\ufe0e\ufe0f")


def parse_identifier(value: object) -> tuple[str, str, str]:
    """Return an id with empty code and reason; for an invalid id, its printable form with code and reason."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    elif not isinstance(value, str) and value is not None:
        return str(value)[:MAX_ID], "bad_id", f"the id is {_kind(value)}: give text or a whole number"
    item_id = (value or "").strip()
    if not _visible(item_id):
        return "", "missing_id", "the product has no id"
    if len(item_id) > MAX_ID:
        return item_id[:MAX_ID], "bad_id", f"the id is longer than {MAX_ID} characters"
    if not item_id.isprintable():
        if _CONTROL.search(item_id):
            return item_id, "bad_id", "the id contains control characters"
        if _SURROGATE.search(item_id):
            return (
                item_id.encode("utf-8", "backslashreplace").decode(),
                "bad_id",
                "the id contains an unpaired surrogate",
            )
    return item_id, "", ""


def _kind(value: object) -> str:
    return {bool: "true or false", float: "a decimal number", list: "a list", dict: "an object"}.get(
        type(value), type(value).__name__
    )


def _visible(text: str) -> bool:
    if text.isascii() and text.isprintable():
        return bool(text)
    return any(unicodedata.category(sign) not in _INVISIBLE and sign not in _FILLERS for sign in text)


_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zs", "Zl", "Zp"})


def _text(value: object, repairs: Counter[str]) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text or (text.isascii() and " " < text[0] < "\x7f" and "\0" not in text):  # the usual case
            return text or None
    else:
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            with suppress(OverflowError):  # an integer too large for a float
                return str(value) if math.isfinite(value) else None
        repairs["text_unreadable"] += 1
        return None
    if _SURROGATE.search(value):
        repairs["half_character_replaced"] += 1
        value = _SURROGATE.sub("\ufffd", value)
        text = value.strip()
    if "\0" in value:
        repairs["nul_removed"] += 1
        value = value.replace("\0", "")
        text = value.strip()
    return text if _visible(text) else None


def _description(value: object, repairs: Counter[str]) -> str | None:
    text = _text(value, repairs)
    if text is None:
        return None
    if "<" in text:
        plain = html_to_text(text)
        if plain is not text:
            repairs["html_stripped"] += 1
        text = plain
    if len(text) > MAX_DESCRIPTION:
        repairs["description_cut"] += 1
        text = text[:MAX_DESCRIPTION]
    return text or None


def _category(value: object, repairs: Counter[str]) -> str | None:
    if isinstance(value, list | tuple):
        value = "/".join(level for level in (_text(level, repairs) for level in value) if level)
    text = _text(value, repairs)
    if text and (">" in text or "&gt;" in text):
        return "/".join(level.strip() for level in text.replace("&gt;", ">").split(">"))
    return text


def _price(raw: RawProduct, repairs: Counter[str]) -> tuple[float | None, str | None]:
    """Return price and currency: the column's, else the one in the price, else the default, else a guess."""
    stated = _text(raw.currency, repairs)
    currency = None
    if stated:
        currency, _ = parse_currency(stated)
        if currency is None:
            repairs["currency_unknown"] += 1
    value = raw.price
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, currency or raw.fallback_currency
    price = parse_price(value, currency or raw.fallback_currency)
    if price.amount is None:
        repairs["price_unknown"] += 1
    if currency:
        return price.amount, currency
    in_price = (raw.fallback_currency or price.currency) if price.guessed else (price.currency or raw.fallback_currency)
    return price.amount, in_price


def _images(values: list[object], repairs: Counter[str]) -> list[str]:
    images = [image for value in values if (image := _text(value, repairs))]
    if len(images) > 1:
        images = list(dict.fromkeys(images))
    if len(images) > MAX_IMAGES:
        repairs["images_cut"] += 1
        del images[MAX_IMAGES:]
    return images


def _attributes(values: dict[str, list[object]], repairs: Counter[str]) -> dict[str, list[str]]:
    attributes: dict[str, list[str]] = {}
    for name, raw_values in values.items():
        texts = [_flag(value) if isinstance(value, bool) else _text(value, repairs) for value in raw_values]
        distinct = list(dict.fromkeys(text for text in texts if text))
        clean_name = _text(name, repairs)
        if clean_name and distinct:
            attributes[clean_name] = distinct
    return attributes


def _flag(value: bool) -> str:
    return "true" if value else "false"


_YES_WORDS = (
    "1 true t yes y on available in_stock instock preorder pre_order presale backorder back_order backordered "
    "limited limited_availability low_stock online_only in_store_only active"
)
_NO_WORDS = (
    "0 false f no n off unavailable not_available out_of_stock outofstock sold_out soldout discontinued inactive"
)
_YES, _NO = frozenset(_YES_WORDS.split()), frozenset(_NO_WORDS.split())


def _available(value: object, repairs: Counter[str]) -> bool:
    """Return whether an item can be bought, by a word, a schema.org URL or a stock count; a missing value means yes."""
    if value is None or value == "" or isinstance(value, bool):
        return value is not False
    if isinstance(value, str):
        word = re.sub(r"[\s_-]+", "_", value.strip().lower().rsplit("/", 1)[-1])
        if word in _YES or word in _NO or not word:
            return word not in _NO
    count = parse_number(value)
    if count is None:
        repairs["available_unknown"] += 1
        return True
    return count > 0


_YEAR_2100 = 4_102_444_800


def _updated_at(value: object, repairs: Counter[str]) -> float | None:
    """Return a time in epoch seconds. It may be an epoch (seconds, milliseconds) or ISO 8601, in UTC by default."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    seconds = parse_number(value)
    if seconds is None:
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value).strip())
            seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = None
    elif seconds > _YEAR_2100:
        seconds /= 1000
    if seconds is None or not 0 < seconds <= _YEAR_2100:
        repairs["updated_at_unknown"] += 1
        return None
    return seconds


def parse_number(value: object) -> float | None:
    """Return a value as a number; None for infinities, NaN, booleans and anything that is not a number."""
    if not isinstance(value, str | int | float | Decimal) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
