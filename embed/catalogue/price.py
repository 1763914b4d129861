"""Parses prices in the notations of the world: an amount and, if the text names one, its currency.

Rules for text: Unicode digits count; spaces and apostrophes group digits; of two different separators the last one is
the decimal sign; a separator that repeats groups digits (by three, or by two before the last three as in India); a
single `.` or `,` before exactly three digits groups them, unless the amount starts with 0 or the currency has three
decimals. Negative or infinite amounts, ranges and anything else are invalid.
"""

import math
import re
import unicodedata
from decimal import Decimal
from typing import NamedTuple


class Price(NamedTuple):
    """An amount (None if unknown) and the currency in the text; `guessed` if several currencies share its sign."""

    amount: float | None
    currency: str | None = None
    guessed: bool = False


def parse_price(value: object, currency: str | None = None) -> Price:
    """Parse the price in a number or text. `currency`, if given, decides how many decimals to expect. Never raises."""
    if isinstance(value, str):
        return Price(float(value)) if _PLAIN(value) else _parse(value, currency)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return Price(_finite(value))
    return Price(None)


def parse_currency(text: str) -> tuple[str | None, bool]:
    """Return the ISO 4217 code of a code or sign, None if there is none, and whether it is a guess among several."""
    if text in CURRENCIES:
        return text, False
    upper = text.strip().upper()
    if upper in CURRENCIES:
        return upper, False
    sign = upper.lower().rstrip(".")
    return (_SIGNS[sign], False) if sign in _SIGNS else (_SHARED_SIGNS.get(sign), True)


_CODES = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP "
    "CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF "
    "IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD "
    "MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB "
    "RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD "
    "UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR ZMW ZWG"
)
CURRENCIES = frozenset(_CODES.split())
_THREE_DECIMALS = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})
_SIGNS = {
    **{"€": "EUR", "euro": "EUR", "euros": "EUR", "£": "GBP", "₹": "INR", "₩": "KRW", "₽": "RUB", "₺": "TRY"},
    **{"₴": "UAH", "₫": "VND", "฿": "THB", "₪": "ILS", "₦": "NGN", "₱": "PHP", "₸": "KZT", "₾": "GEL", "₵": "GHS"},
    **{"us$": "USD", "a$": "AUD", "au$": "AUD", "c$": "CAD", "ca$": "CAD", "nz$": "NZD", "hk$": "HKD", "s$": "SGD"},
    **{"r$": "BRL", "mx$": "MXN", "nt$": "TWD", "cn¥": "CNY", "jp¥": "JPY", "元": "CNY", "円": "JPY", "zł": "PLN"},
    **{"kč": "CZK", "ft": "HUF", "lei": "RON", "руб": "RUB", "rm": "MYR", "sfr": "CHF"},
}
_SHARED_SIGNS = {"$": "USD", "¥": "JPY", "kr": "SEK", "rs": "INR", "fr": "CHF"}

_PLAIN = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,2})?", re.ASCII).fullmatch
_SPELLED = re.compile(r"((?:[^\d\s.,'-]+\.?)?) ?(\d[\d.,'٫ ]*|[.,]\d+)(\D*)").fullmatch
_GROUPED = re.compile(r"\d{1,3}([.,' ])\d{3}(?:\1\d{3})*|\d{1,2}(?:,\d\d)+,\d{3}").fullmatch
_ONE_GROUP = re.compile(r"[1-9]\d{0,2}[.,]\d{3}").fullmatch
# In Arabic, "٫" always precedes decimals and "٬" separates groups.
_MARKS = str.maketrans(dict.fromkeys("’‘ʼ′´`٬_", "'") | dict.fromkeys("\u200b\u200e\u200f\u2060\ufeff"))


def _parse(text: str, currency: str | None) -> Price:
    if len(text) > 64:
        return Price(None)
    text = unicodedata.normalize("NFKC", text.translate(_MARKS))
    text = " ".join("".join(str(unicodedata.decimal(sign, sign)) for sign in text).split())
    match = _SPELLED(text)
    if match is None:
        return Price(None)
    named = [parse_currency(name) for name in (match[1], match[3].strip(" -–—")) if name]  # "12,-" is a round 12
    codes = {code for code, _ in named}
    if None in codes or len(codes) > 1:
        return Price(None)
    code, guessed = named[0] if named else (None, False)
    return Price(_amount(match[2].rstrip(" .,"), currency or code), code, guessed)


def _amount(number: str, currency: str | None) -> float | None:
    separators = [sign for sign in number if not sign.isdigit()]
    last = separators[-1] if separators else ""
    groups = last != "٫" and (
        last not in (".", ",")
        or separators.count(last) > 1
        or (len(separators) == 1 and currency not in _THREE_DECIMALS and bool(_ONE_GROUP(number)))
    )
    whole, fraction = (number, "0") if groups else number.rsplit(last, 1)
    if (whole and not whole.isdigit() and not _GROUPED(whole)) or not fraction.isdigit():
        return None
    return _finite(f"{re.sub(r'[^0-9]', '', whole) or 0}.{fraction}")


def _finite(amount: str | float | Decimal) -> float | None:
    try:
        number = float(amount)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
