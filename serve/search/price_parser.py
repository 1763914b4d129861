"""Parses price bounds in a query: `yoga pants under $50` becomes yoga pants with a price of at most 50.

English, German, French, Spanish and Italian. A number is a price if it has a currency, or follows words that are used
for prices only; `under 50 watts` and `from 6 months` stay as they are.
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
    """Return the pattern of a number with a currency before or after it; if `alone`, the currency is optional.

    Without a currency no other unit may follow. `name` names the groups.
    """
    currency = (
        rf"(?:(?P<before_{name}>{_CURRENCY})\s*)?(?P<{name}>{_NUMBER})(?![\d./])(?:\s*(?P<after_{name}>{_CURRENCY})"
    )
    return currency + (rf"|(?(before_{name})|(?!{_UNIT})))" if alone else ")?")


_BOUNDS = {
    # Words that are used for prices and need no currency; words that are used for much else and need one.
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
    bound: [re.compile(rf"(?<!\w)(?:{words})\s+{_price('bound', True)}", re.IGNORECASE) for words in alternatives]
    for bound, alternatives in _BOUNDS.items()
}


class ParsedPrice(NamedTuple):
    """The text without the price bounds, and the bounds as a filter; the whole text and no filter without bounds."""

    text: str
    filter: dict[str, Any]


def parse_price_bounds(text: str) -> ParsedPrice:
    """Split the price bounds from a query. A query that has nothing else stays as it is."""
    rest, price = text, {}
    if match := _BETWEEN.search(text) or next(filter(_has_currency, _SPAN.finditer(text)), None):
        low, high = sorted((_value(match["low"]), _value(match["high"])))
        rest, price = _without(match, text), {"gte": low, "lte": high}
    else:
        for bound, (unambiguous, ambiguous) in _BOUND.items():
            match = unambiguous.search(rest) or next(filter(_has_currency, ambiguous.finditer(rest)), None)
            if match:
                rest, price[bound] = _without(match, rest), _value(match["bound"])
    rest = " ".join(rest.split())
    if not price or not any(each.isalnum() for each in rest):
        return ParsedPrice(text, {})
    return ParsedPrice(rest, {"price": price})


def _has_currency(match: re.Match[str]) -> bool:
    return any(value for name, value in match.groupdict().items() if name.startswith(("before", "after")))


def _without(match: re.Match[str], text: str) -> str:
    return f"{text[: match.start()]} {text[match.end() :]}"


def _value(number: str) -> float:
    return float(number.replace(",", "."))
