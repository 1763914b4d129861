"""Cleaning of items: ids, prices, currencies, HTML and all other fields, valid or not."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embed.catalogue import Item, RawProduct, Reject, clean_item
from embed.catalogue.html_text import html_to_text
from embed.catalogue.price import Price, parse_price

# --- cleaning


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (7001, "7001"),
        (" 7001 ", "7001"),
        ("a/b c?d#e%2F", "a/b c?d#e%2F"),
        ("x" * 512, "x" * 512),
        (7001.0, "bad_id"),
        (True, "bad_id"),
        (["7002"], "bad_id"),
        ({}, "bad_id"),
        ("x" * 513, "bad_id"),
        ("a\tb", "bad_id"),
        ("a\x85b", "bad_id"),
        (None, "missing_id"),
        ("", "missing_id"),
        ("\u200b", "missing_id"),
    ],
)
def test_ids(value: object, outcome: str) -> None:
    cleaned = clean_item(RawProduct(1, item_id=value, title="t"), Counter())
    assert (cleaned.code if isinstance(cleaned, Reject) else cleaned.item_id) == outcome


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("1.299,00 €", 1299.0),
        ("€1,299.00", 1299.0),
        ("1299", 1299.0),
        ("1 299,00", 1299.0),
        ("1\u00a0299,00", 1299.0),
        ("1\u2009299.5", 1299.5),
        ("1’299.00", 1299.0),
        ("1.299", 1299.0),
        ("1,299", 1299.0),
        ("0.299", 0.299),
        ("12,5", 12.5),
        ("1.2345", 1.2345),
        (".5", 0.5),
        ("1.234.567", 1234567.0),
        ("1,23,456.50", 123456.5),
        ("12,-", 12.0),
        ("CHF 1'299.00", 1299.0),
        ("Rs. 1,500", 1500.0),
        ("٣٫٥٠", 3.5),
        ("١٬٢٩٩٫٥٠", 1299.5),
        ("１２．５０", 12.5),
        ("0", 0.0),
        (1.299, 1.299),
        (0, 0.0),
        ("1.299 KWD", 1.299),
        ("free", None),
        ("-5", None),
        ("−5", None),
        ("(5)", None),
        ("1e400", None),
        ("1e3", None),
        ("NaN", None),
        ("inf", None),
        ("12.5.3", None),
        ("1,29,00", None),
        ("12 34", None),
        ("10-20", None),
        ("5 € USD", None),
        ("9" * 400, None),
        (float("nan"), None),
        (float("inf"), None),
        (10**400, None),
        (-1, None),
        (True, None),
        ([], None),
    ],
)
def test_prices(value: object, amount: float | None) -> None:
    assert parse_price(value).amount == amount


@pytest.mark.parametrize(
    ("price", "currency", "default", "outcome"),
    [
        ("12 USD", "EUR", None, "EUR"),
        ("12 USD", None, "EUR", "USD"),
        ("$12", None, "CAD", "CAD"),
        ("$12", None, None, "USD"),
        ("£12", None, "EUR", "GBP"),
        ("12", None, "EUR", "EUR"),
        ("12", "eur", None, "EUR"),
        ("12 zł", "credits", None, "PLN"),
        ("12", None, None, None),
    ],
)
def test_currencies(price: str, currency: str | None, default: str | None, outcome: str | None) -> None:
    raw = RawProduct(1, item_id="1", title="t", price=price, currency=currency, fallback_currency=default)
    item = clean_item(raw, Counter())
    assert isinstance(item, Item)
    assert (item.price, item.currency) == (12.0, outcome)


@given(st.integers(0, 10**9), st.integers(0, 99), st.sampled_from([".,", ",.", " ,", "'.", "\u202f,", "’,"]))
def test_any_amount_in_any_spelling_reads_as_itself(whole: int, cents: int, signs: str) -> None:
    text = f"{whole:,}".replace(",", signs[0]) + f"{signs[1]}{cents:02d}"
    right = Price(float(f"{whole}.{cents:02d}"))
    assert parse_price(text) == parse_price(f"{text} EUR")._replace(currency=None) == right


@given(st.text() | st.text("0123456789.,-' €$eE٫٣", max_size=12) | st.floats() | st.integers() | st.none())
def test_no_price_crashes_or_is_less_than_nothing(value: object) -> None:
    amount = parse_price(value).amount
    assert amount is None or 0 <= amount < float("inf")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (
            '<p>Bright &amp; warm<br>lamp</p><script>alert("x")</script><style>.a{color:red}</style>&nbsp;<b>E27</b>'
            "&#8364;5 off",
            "Bright & warm lamp E27 €5 off",
        ),
        ("plain text, not HTML: a<b and b>c", None),
        ("5 < 6 & 7 > 2 puzzle", None),
        ("Tom &amp; Jerry", None),
        ("<unknown>kept</unknown>", None),
        ("H<sub>2</sub>O, <b>bold</b>, <i>italic</i>.", "H2O, bold, italic."),
        ('<p class="a > b" data-x=1 hidden>in</p>', "in"),
        ("a<!-- <p>no</p> -->b<br/>c", "a b c"),
        ("<p>&copy &copy; &unknown; &#xD800; &#0;</p>", "&copy © &unknown; \ufffd \ufffd"),
        ("<ul><li>one<li>two</ul>", "one two"),
        ("a<script>var x='<b>'", "a"),
    ],
)
def test_html(markup: str, text: str | None) -> None:
    assert html_to_text(markup) == (markup if text is None else text)


@pytest.mark.parametrize(
    "hostile", ["<p " * 100_000, '<p a="' * 100_000, "<script>" * 50_000, "<p>" + "<!--" * 99_999, "<p" + " " * 10**6]
)
def test_hostile_html_takes_linear_time(hostile: str) -> None:
    html_to_text(hostile)


@pytest.mark.parametrize(
    ("field", "value", "outcome", "repair"),
    [
        ("available", "in stock", True, None),
        ("available", "out_of_stock", False, None),
        ("available", "Out Of Stock", False, None),
        ("available", "https://schema.org/OutOfStock", False, None),
        ("available", "preorder", True, None),
        ("available", "0", False, None),
        ("available", "12", True, None),
        ("available", -3, False, None),
        ("available", None, True, None),
        ("available", "perhaps", True, "available_unknown"),
        ("updated_at", "2026-01-01T00:00:00Z", 1767225600.0, None),
        ("updated_at", "2026-01-01", 1767225600.0, None),
        ("updated_at", "2026-01-01T01:00:00+01:00", 1767225600.0, None),
        ("updated_at", 1767225600, 1767225600.0, None),
        ("updated_at", "1767225600000", 1767225600.0, None),
        ("updated_at", "yesterday", None, "updated_at_unknown"),
        ("updated_at", 0, None, "updated_at_unknown"),
        ("category", "Men > Tops > Tees", "Men/Tops/Tees", None),
        ("category", ["Men", "Tops"], "Men/Tops", None),
        ("brand", ["x"], None, "text_unreadable"),
        ("images", ["a", " a ", "b", ""], ["a", "b"], None),
        ("images", [f"{n}.jpg" for n in range(30)], [f"{n}.jpg" for n in range(20)], "images_cut"),
        ("description", "x" * 30_000, "x" * 20_000, "description_cut"),
        ("description", "\u2060\u200b", None, None),
        ("price", "free", None, "price_unknown"),
        ("attributes", {"a": ["x", "x", 5, True, None, ""], "b": []}, {"a": ["x", "5", "true"]}, None),
    ],
)
def test_fields(field: str, value: object, outcome: object, repair: str | None) -> None:
    repairs: Counter[str] = Counter()
    raw = RawProduct(1, item_id="1", title="t")
    setattr(raw, field, value)
    assert getattr(clean_item(raw, repairs), field) == outcome
    assert repairs == ({repair: 1} if repair else {})
