"""What of a query is no word to look for but a condition: `yoga pants under $50` are yoga pants, at most 50.

English, German, French, Spanish and Italian. A number counts as a price with a currency, or after words that are said
of prices alone; `under 50 watts` and `from 6 months` are left as they are.
"""

import re
from typing import Any, NamedTuple

_CURRENCY = r"(?:[$€£¥₹]|\b(?:usd|eur|gbp|chf|dollars?|euros?|bucks)\b)"
_NUMBER = r"\d{1,7}(?:[.,]\d{1,2})?"
_UNIT = (
    r"\s*(?:%|°|[\"'”’]|x\d|(?:inch|inches|in|ft|feet|foot|yd|yards?|mm|cm|m|km|meters?|metres?|metri|metros|mètres|"
    r"oz|ounces?|lbs?|pounds?|kg|g|grams?|gramm|ml|cl|l|liters?|litres?|liter|gal|gallons?|qt|w|watts?|kw|v|volts?|"
    r"amps?|a|ah|mah|lumens?|hours?|hrs?|min|minutes?|days?|weeks?|months?|years?|yrs?|jahren?|monaten?|ans|mois|años|"
    r"anni|mesi|pcs|pieces?|packs?|count|ct|sets?|btu|psi|rpm|gb|tb|mp|hz|k|degrees?|people|persons?)\b)"
)


def _price(name: str, alone: bool) -> str:
    """A number under a name, with a currency before or after it; `alone` it may have none, but no other unit."""
    currency = (
        rf"(?:(?P<before_{name}>{_CURRENCY})\s*)?(?P<{name}>{_NUMBER})(?![\d./])(?:\s*(?P<after_{name}>{_CURRENCY})"
    )
    return currency + (rf"|(?(before_{name})|(?!{_UNIT})))" if alone else ")?")


_BOUNDS = {
    # What is said of prices, and needs no currency; what is said of much else, and does.
    "lte": (
        r"under|below|less than|cheaper than|no more than|unter|weniger als|günstiger als|billiger als|moins de|"
        r"menos de|por debajo de|meno di|sotto i|sotto",
        r"up to|at most|max(?:imum|imal)?|bis(?: zu)?|höchstens|jusqu[’']?à|sous|hasta|fino a|<=?",
    ),
    "gte": (
        r"over|above|more than|über|mehr als|plus de|más de|mas de|più di|piu di",
        r"at least|from|min(?:imum|destens)?|ab|starting at|à partir de|desde|da|>=?",
    ),
}
_BETWEEN = re.compile(
    rf"\b(?:between|zwischen|entre|tra)\s+{_price('low', False)}\s+(?:and|und|et|y|e)\s+{_price('high', True)}",
    re.IGNORECASE,
)
_SPAN = re.compile(  # which needs a currency
    rf"(?:\b(?:from|von|de|da)\s+)?{_price('low', False)}\s*(?:-|–|to|bis|a|à)\s*{_price('high', True)}", re.IGNORECASE
)
_BOUND = {
    bound: [re.compile(rf"(?<!\w)(?:{words})\s+{_price('bound', True)}", re.IGNORECASE) for words in said]
    for bound, said in _BOUNDS.items()
}


class ParsedPrice(NamedTuple):
    """What is left to look for, and the conditions that were said; both as they came where none was."""

    text: str
    filter: dict[str, Any]


def parse_price_bounds(text: str) -> ParsedPrice:
    """The conditions on price in a query, and its other words. A query of conditions alone stays as it is."""
    left, price = text, {}
    if found := _BETWEEN.search(text) or next(filter(_has_currency, _SPAN.finditer(text)), None):
        low, high = sorted((_value(found["low"]), _value(found["high"])))
        left, price = _without(found, text), {"gte": low, "lte": high}
    else:
        for bound, (plain, doubtful) in _BOUND.items():
            found = plain.search(left) or next(filter(_has_currency, doubtful.finditer(left)), None)
            if found:
                left, price[bound] = _without(found, left), _value(found["bound"])
    left = " ".join(left.split())
    if not price or not any(each.isalnum() for each in left):
        return ParsedPrice(text, {})
    return ParsedPrice(left, {"price": price})


def _has_currency(found: re.Match[str]) -> bool:
    return any(value for name, value in found.groupdict().items() if name.startswith(("before", "after")))


def _without(found: re.Match[str], text: str) -> str:
    return f"{text[: found.start()]} {text[found.end() :]}"


def _value(number: str) -> float:
    return float(number.replace(",", "."))
