"""The catalogue: every kind of mess a feed can hold, with the exact outcome; refusals, formats and properties."""

import csv
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.catalogue import Catalogue, IngestReport, Item, Mapping, Raw, Record, Reject, clean, ingest, open_feed
from embed.catalogue.html_text import html_to_text
from embed.catalogue.price import Price, parse_price
from embed.errors import BadInput, Damaged, Missing
from embed.records import MAX_RECORD

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[1] / "../shared/data"))
HEADER = "item_id,title,description,price,currency,category,image\n"


class Shop:
    """A store in a temporary folder, with feeds written and read in one call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"

    def feed(self, content: str | bytes, name: str = "feed.csv") -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def ingest(self, content: str | bytes, name: str = "feed.csv", **options: object) -> IngestReport:
        report = ingest(self.feed(content, name), self.store, **options)  # type: ignore[arg-type]
        assert report.read == report.kept + report.rejected
        assert report.kept == len(Catalogue.current(self.store)) == len(self.items())
        assert report.rejected == len(self.rejects())
        return report

    def mapping(self, toml: str) -> Mapping:
        path = self.folder / "mapping.toml"
        path.write_text(toml)
        return Mapping.load(path)

    def items(self) -> dict[str, Item]:
        return {item.item_id: item for batch in Catalogue.current(self.store).batches() for item in batch}

    def rejects(self) -> list[tuple[int, str]]:
        lines = (self.store / "catalogue/current/rejects.jsonl").read_text().splitlines()
        return [(reject["line"], reject["code"]) for reject in map(json.loads, lines)]


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


# --- every kind of mess, inline


def test_byte_order_mark_and_quotes_leave_the_header_readable(shop: Shop) -> None:
    shop.ingest('\ufeff"item_id","title"\r\n"1001","Red shoe"\r\n"1002","Blue shoe"\r\n')
    assert list(shop.items()) == ["1001", "1002"]


def test_ids_are_text_to_the_last_zero(shop: Shop) -> None:
    shop.ingest(HEADER + "".join(f"{name},Mug,,4,EUR,home,\r\n" for name in ("00123", "123", "0123", "1e5", "100000")))
    assert list(shop.items()) == ["00123", "123", "0123", "1e5", "100000"]


def test_last_of_duplicates_wins_and_earlier_ones_are_rejected(shop: Shop) -> None:
    rows = (
        "1001,Old,,1,,,\n1002,Other,,1,,,\n1001,New,,2,,,\n 1003 ,Padded,,3,,,\n1001,Newest,,4,,,\n1003,Plain,,5,,,\n"
    )
    report = shop.ingest(HEADER + rows)
    assert {item.item_id: item.title for item in shop.items().values()} == {
        "1002": "Other",
        "1001": "Newest",
        "1003": "Plain",
    }
    assert shop.rejects() == [(2, "duplicate_id"), (4, "duplicate_id"), (5, "duplicate_id")]
    assert report.rejects == {"duplicate_id": 3}
    reasons = (shop.store / "catalogue/current/rejects.jsonl").read_text().splitlines()
    assert [json.loads(reason)["reason"][-6:] for reason in reasons] == ["line 6", "line 6", "line 7"]


def test_words_that_look_like_nothing_stay_titles(shop: Shop) -> None:
    shop.ingest(
        HEADER + "2001,,Only a description,10,,,a.jpg\n2002,   ,Blank title,10,,,\n2003,NaN,Bread,1,,,\n"
        "2004,NA,Map,1,,,\n2005,None,,1,,,\n2006,null,,10,EUR,misc,\n2007,,,10,EUR,misc,\n2008,null,Void,1,,,\n"
    )
    titles = [(item.item_id, item.title) for item in shop.items().values()]
    assert titles == [
        ("2001", None),
        ("2002", None),
        ("2003", "NaN"),
        ("2004", "NA"),
        ("2005", "None"),
        ("2008", "null"),
    ]
    assert shop.rejects() == [(7, "nothing_to_embed"), (8, "nothing_to_embed")]


def test_quotes_and_newlines_inside_a_cell(shop: Shop) -> None:
    shop.ingest(
        HEADER + '3001,"24"" monitor, ""UltraSharp""","Line one\nLine two, with comma\n\nLine four",199,EUR,it,\r\n'
        "3002,After,still 3002,9,EUR,it,\r\n"
    )
    monitor, after = shop.items().values()
    assert monitor.title == '24" monitor, "UltraSharp"'
    assert monitor.description == "Line one\nLine two, with comma\n\nLine four"
    assert (after.item_id, after.description) == ("3002", "still 3002")


def test_long_and_short_rows_are_rejected_by_line_and_stray_quotes_kept(shop: Shop) -> None:
    shop.ingest(
        HEADER + "4001,Good,ok,1,EUR,misc,\n4002,Long,ok,1,EUR,misc,a.jpg,surprise\n4003,Short,ok\n"
        '4004,Unclosed "quote inside,ok,1,EUR,misc,\n4005,"24" screen,ok,1,EUR,misc,\n4006,"closed" ,ok,1,EUR,misc,\n'
    )
    titles = {item.item_id: item.title for item in shop.items().values()}
    assert titles == {"4001": "Good", "4004": 'Unclosed "quote inside', "4005": '"24" screen', "4006": "closed"}
    assert shop.rejects() == [(3, "long_row"), (4, "short_row")]


@pytest.mark.parametrize(
    "closed_by", ["", '9,12",,,,,\n', '9,"Nice",,,,,\n', '9,12" pipe,,,,,\n', '9,"a ""b""",,,,,\n']
)
def test_an_unclosed_quote_costs_its_own_line_only(shop: Shop, closed_by: str) -> None:
    good = "".join(f"{number},Title {number},,,,,\n" for number in range(100, 400))
    report = shop.ingest(HEADER + '1,"never closed,ok,1,EUR,misc,\n' + good + closed_by)
    assert report.kept == 300 + bool(closed_by)
    assert shop.rejects() == [(2, "bad_quotes")]


def test_an_unclosed_quote_in_a_long_file_is_given_up_at_the_bound(shop: Shop) -> None:
    rows = MAX_RECORD // 40 + 1000
    report = shop.ingest("item_id,title\n" + '1,"open\n' + "".join(f"{n:08d},{'x' * 40}\n" for n in range(rows)))
    assert (report.kept, report.rejects) == (rows, {"bad_quotes": 1})


def test_lines_that_are_no_utf8_are_rejected_alone(shop: Shop) -> None:
    rows = ["8001,Crème brûlée".encode(), "8002,Crème".encode("latin-1"), "8003,“Smart” €5".encode("cp1252")]
    feed = b"item_id,title\n" + b"\n".join(rows)
    shop.ingest(feed)
    assert shop.items()["8001"].title == "Crème brûlée"
    assert shop.rejects() == [(3, "bad_encoding"), (4, "bad_encoding")]
    latin = b"item_id,title\n" + rows[1]
    shop.ingest(latin, force=True, mapping=Mapping(encoding="latin-1"))
    assert shop.items()["8002"].title == "Crème"
    with pytest.raises(BadInput, match="no encoding 'klingon'"):
        shop.ingest(latin, mapping=Mapping(encoding="klingon"))


def test_a_header_of_several_lines_has_to_be_text_in_all_of_them(shop: Shop) -> None:
    with pytest.raises(BadInput, match="the header line cannot be read"):
        shop.ingest(b'item_id,"ti\ntle \xff",title\n1,x,a\n')


def test_columns_that_come_again_get_numbers_in_linear_time(shop: Shop) -> None:
    report = shop.ingest("item_id,a,title,a (2),a,a" + "," * 200_000 + "\n")
    assert report.ignored_columns[:5] == ["a", "a (2)", "a (3)", "a (4)", "column 7"]
    assert len(report.ignored_columns) == 200_004


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_unicode_with_a_byte_order_mark_is_read(shop: Shop, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    shop.ingest((mark + "item_id,title\r\n8201,Größe ¼\r\n").encode(encoding))
    assert shop.items()["8201"].title == "Größe ¼"


def test_nul_is_removed_from_text_but_not_from_ids(shop: Shop) -> None:
    report = shop.ingest("item_id,title\n8101,Nul\0l inside\n8102,Clean\n81\x0003,Id\n")
    assert [item.title for item in shop.items().values()] == ["Null inside", "Clean"]
    assert report.repaired == {"nul_removed": 1}
    assert shop.rejects() == [(4, "bad_id")]
    with pytest.raises(BadInput, match="utf-16-le"):
        shop.ingest("item_id,title\n1,a\n".encode("utf-16-le"))


def test_broken_json_lines_cost_themselves_only(shop: Shop) -> None:
    report = shop.ingest(
        '{"item_id":"8301","title":"good"}\n{"item_id":"8302","title":"cut off\n\n{"item_id":"8303","title":"good"}\n'
        '{"item_id":"8304","title":"NaN price","price":NaN}\n[1,2]\n{"item_id":"x","title":"\\ud800"}\n'
        + '{"item_id":"long","title":"' + "x" * MAX_RECORD + '"}\n' + "[" * 100_000 + "\n"
        '{"item_id":"8305","title":"last line has no newline"}',
        "feed.jsonl",
    )  # fmt: skip
    assert list(shop.items()) == ["8301", "8303", "8304", "8305"]
    assert shop.items()["8304"].price is None
    assert report.repaired == {"price_unknown": 1}
    assert shop.rejects() == [
        (2, "bad_json"),
        (6, "not_an_object"),
        (7, "bad_encoding"),
        (8, "too_long"),
        (9, "bad_json"),
    ]


def test_scripts_of_the_world_come_back_byte_for_byte(shop: Shop) -> None:
    titles = ["👩🏽‍🚀🏳️‍🌈", "红色跑步鞋", "حذاء جري", "נעל ריצה", "\u202eeohs", "Ｒｅｄ\u3000ｓｈｏｅ", "İSTANBUL ıslak"]
    lines = [json.dumps({"item_id": number, "title": title}) for number, title in enumerate(titles)]
    shop.ingest("\n".join([*lines, json.dumps({"item_id": "blank", "title": "\u200b\ufeff\u200b"})]), "feed.jsonl")
    assert [item.title for item in shop.items().values()] == titles
    assert shop.rejects() == [(len(titles) + 1, "nothing_to_embed")]


@pytest.mark.parametrize("content", ["", "\n\n", HEADER, "\ufeff"])
def test_a_feed_without_rows_is_an_empty_catalogue_but_replaces_none(shop: Shop, content: str) -> None:
    assert shop.ingest(content).kept == 0
    shop.ingest("item_id,title\n1,a\n")
    with pytest.raises(BadInput, match="0 usable products where the catalogue has 1"):
        shop.ingest(content)
    assert list(shop.items()) == ["1"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_known_by_the_header(shop: Shop, delimiter: str) -> None:
    shop.ingest('"item_id"|"a,b;c;d;e"|title|price\n8401|x|Lampe|"12,50"\n'.replace("|", delimiter))
    assert shop.items()["8401"].price == 12.5


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
    cleaned = clean(Raw(1, item_id=value, title="t"), Counter())
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
    raw = Raw(1, item_id="1", title="t", price=price, currency=currency, fallback_currency=default)
    item = clean(raw, Counter())
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
    raw = Raw(1, item_id="1", title="t")
    setattr(raw, field, value)
    assert getattr(clean(raw, repairs), field) == outcome
    assert repairs == ({repair: 1} if repair else {})


# --- mapping


def test_a_feed_that_does_not_say_what_is_what_is_refused_with_its_columns(shop: Shop) -> None:
    with pytest.raises(BadInput, match=r"no item_id; columns found: sku, name;.*item_id = "):
        shop.ingest("sku,name\n1,Shoe\n")
    with pytest.raises(BadInput, match="no title, description or image; columns found: item_id, name"):
        shop.ingest('{"item_id": 1, "name": "Shoe"}', "feed.jsonl")
    assert list((shop.store / "catalogue").glob(".new-*")) == []
    report = shop.ingest(
        'sku;name;was;now;pics;extra;junk\n1;Shoe;20;;a.jpg+b.jpg;\'{""fit"": ""S|M""}\';z\n'.replace("'", '"'),
        mapping=shop.mapping(
            '[columns]\nitem_id="sku"\ntitle="name"\nprice=["now","was"]\nimages=["pics"]\n[split]\nimages="+"\n'
            '[attributes]\nlist="was"\nmore={column="extra",json=true,split="|"}\n[defaults]\ncurrency="EUR"\n'
        ),
    )
    assert report.ignored_columns == ["junk"]
    assert shop.items()["1"] == Item(
        "1",
        "Shoe",
        price=20.0,
        currency="EUR",
        images=["a.jpg", "b.jpg"],
        attributes={"list": ["20"], "fit": ["S", "M"]},
    )


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[colums]\nitem_id="a"', "did you mean columns"),
        ('[columns]\ntitel="a"', "did you mean title"),
        ('[columns]\ntitle={colunm="a"}', 'column = "name"'),
        ('[attributes]\nsize={column="a",spilt="|"}', "did you mean split"),
        ('[defaults]\nitem_id="a"', "known: title"),
        ('format="xlsx"', "known: csv"),
        ("delimiter=5", "text in quotes"),
        ("[columns", "not TOML"),
        ("columns=5", "is a table"),
    ],
)
def test_mistakes_in_a_mapping_are_named_with_the_fix(shop: Shop, toml: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        shop.mapping(toml)


def test_a_mapping_of_columns_the_feed_lacks_is_refused(shop: Shop) -> None:
    with pytest.raises(BadInput, match="lacks: colour; columns found: item_id, title"):
        shop.ingest("item_id,title\n1,a\n", mapping=shop.mapping('[attributes]\ncolor="colour"'))


# --- formats

MERCHANT_ITEM = Item(
    "SKU1",
    "Tee",
    "Soft tee",
    "Men/Tops",
    "Acme",
    9.99,
    "EUR",
    ["https://a/1.jpg", "https://a/2.jpg", "https://a/3.jpg"],
    {"size": ["M"], "item_group_id": ["G"], "color": ["Red", "Blue"], "list_price": ["12.50 EUR"]},
    available=False,
)


@pytest.mark.parametrize("space", [" ", "_"])
def test_merchant_tsv(shop: Shop, space: str) -> None:
    columns = {
        "id": "SKU1",
        "title": "Tee",
        "description": "Soft tee",
        "link": "https://a",
        "image link": "https://a/1.jpg",
        "additional image link": "https://a/2.jpg,https://a/3.jpg",
        "price": "12.50 EUR",
        "sale price": "9.99 EUR",
        "brand": "Acme",
        "product type": "Men > Tops",
        "availability": "out of stock",
        "color": "Red/Blue",
        "size": "M",
        "item group id": "G",
    }
    header = "\t".join(name.replace(" ", space) for name in columns)
    report = shop.ingest(header + "\n" + "\t".join(columns.values()) + "\n", "feed.txt")
    assert (report.format, report.ignored_columns) == ("merchant", ["link"])
    assert shop.items() == {"SKU1": MERCHANT_ITEM}


FIELDS = """<g:id>SKU1</g:id><title>Tee</title><g:image_link>https://a/1.jpg</g:image_link>
<g:additional_image_link>https://a/2.jpg</g:additional_image_link>
<g:additional_image_link>https://a/3.jpg</g:additional_image_link><g:price>12.50 EUR</g:price>
<g:sale_price>9.99 EUR</g:sale_price><g:brand>Acme</g:brand><g:product_type>Men &gt; Tops</g:product_type>
<g:availability>out_of_stock</g:availability><g:color>Red/Blue</g:color><g:size>M</g:size>
<g:item_group_id>G</g:item_group_id><g:shipping><g:price>5 EUR</g:price></g:shipping>"""
RSS = f"""<?xml version="1.0"?><rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel><title>Shop</title>
<item>{FIELDS}<description>Soft tee</description></item><item><g:id>2</g:id><title>Two</title></item></channel></rss>"""
ATOM = f"""<feed xmlns="http://www.w3.org/2005/Atom" xmlns:g="http://base.google.com/ns/1.0"><title>Shop</title>
<entry><id>tag:atom</id>{FIELDS}<summary>Soft tee</summary><link href="https://a"/></entry>
<entry><g:id>2</g:id><title>Two</title></entry></feed>"""


@pytest.mark.parametrize("xml", [RSS, ATOM])
def test_merchant_xml(shop: Shop, xml: str) -> None:
    report = shop.ingest(gzip.compress(xml.encode()), "feed.xml.gz")
    assert report.format == "merchant"
    assert shop.items() == {"SKU1": MERCHANT_ITEM, "2": Item("2", "Two")}


def test_hostile_or_cut_xml_is_refused_and_the_catalogue_stays(shop: Shop) -> None:
    shop.ingest(RSS, "feed.xml")
    bomb = '<!DOCTYPE x [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;">]>' + RSS.removeprefix('<?xml version="1.0"?>')
    with pytest.raises(BadInput, match="entity 'lol'"):
        shop.ingest(bomb, "feed.xml")
    with pytest.raises(Damaged, match="cut"):
        shop.ingest(RSS[:-30], "feed.xml")
    with pytest.raises(BadInput, match="no end of a product"):
        shop.ingest("<rss><item><title>" + "x" * (1 << 24), "feed.xml")
    for encoding in ("klingon", "utf-7", "big5"):
        with pytest.raises(BadInput, match="write it in UTF-8"):
            shop.ingest(f'<?xml version="1.0" encoding="{encoding}"?><rss></rss>', "feed.xml")
    assert len(shop.items()) == 2


def test_shopify(shop: Shop) -> None:
    columns = (
        "Handle,Title,Body (HTML),Vendor,Type,Tags,Option1 Name,Option1 Value,Option2 Name,Option2 Value,Variant SKU,"
        "Variant Price,Variant Compare At Price,Variant Inventory Qty,Image Src,Image Position,Variant Image,Status,"
        "Gift"
    )
    report = shop.ingest(
        columns
        + "\ntee,Tee,<p>Soft <b>tee</b></p>,Acme,Tops,'a, b',Color,Red,Size,M,".replace("'", '"')
        + "T1,10.00,12.00,3,2.jpg,2,r.jpg,active,x\n"
        "tee,,,,,,,Blue,,M,T1,11.00,,0,1.jpg,1,,,\n"
        "tee,,,,,,,Blue,,L,T3,11.00,,,,,,,\n"
        "tee,,,,,,,,,,,,,,3.jpg,3,,,\n"
        "mug,Mug,,,,,Title,Default Title,,,,5.00,,,,,,draft,\n"
    )  # fmt: skip
    assert (report.format, report.read, report.ignored_columns) == ("shopify", 4, ["Gift"])
    red, blue, large, mug = shop.items().values()
    assert red == Item(
        "tee:Red:M",
        "Tee - Red / M",
        "Soft tee",
        "Tops",
        "Acme",
        10.0,
        images=["r.jpg", "1.jpg", "2.jpg", "3.jpg"],
        attributes={"color": ["Red"], "size": ["M"], "handle": ["tee"], "tags": ["a", "b"], "list_price": ["12.00"]},
    )
    assert (blue.item_id, blue.available, blue.images) == ("tee:Blue:M", False, ["1.jpg", "2.jpg", "3.jpg"])
    assert (large.item_id, large.title, large.price) == ("T3", "Tee - Blue / L", 11.0)
    assert mug == Item("mug", "Mug", price=5.0, attributes={"handle": ["mug"]}, available=False)


def test_parquet(shop: Shop) -> None:
    table = pa.table(
        {
            "item_id": pa.array([1, 2]),
            "title": ["One", None],
            "price": [1.299, float("nan")],
            "images": [["a.jpg"], ["b.jpg", "c.jpg"]],
            "attributes": pa.array([[("color", ["red"])], None], pa.map_(pa.string(), pa.list_(pa.string()))),
            "updated_at": pa.array([1767225600 * 10**9 + 1, None], pa.timestamp("ns")),
        }
    )
    pq.write_table(table, shop.folder / "feed.parquet")
    content = (shop.folder / "feed.parquet").read_bytes()
    assert shop.ingest(content, "feed.parquet").repaired == {"price_unknown": 1}
    one, two = shop.items().values()
    assert one == Item(
        "1", "One", price=1.299, images=["a.jpg"], attributes={"color": ["red"]}, updated_at=1767225600.0
    )
    assert two == Item("2", images=["b.jpg", "c.jpg"])
    with pytest.raises(Damaged, match="cannot be read as Parquet"):
        shop.ingest(content[:-20], "feed.parquet")


def test_a_shopify_product_without_end_takes_linear_time(shop: Shop) -> None:
    rows = "".join(f"mug,Mug,5.00,S{number},{number}.jpg\n" for number in range(10_000))
    report = shop.ingest(f"Handle,Title,Variant Price,Variant SKU,Image Src\n{rows}")
    assert report.kept == 10_000
    assert shop.items()["S9999"].images == [f"{number}.jpg" for number in range(20)]


@pytest.mark.parametrize(
    ("count", "available"), [("", True), ("3", True), ("0", False), ("-4", False), ("--5", True), ("-" * 20, True)]
)
def test_a_count_in_stock_that_is_none_says_nothing(shop: Shop, count: str, available: bool) -> None:
    shop.ingest(f"Handle,Title,Variant Price,Variant Inventory Qty\nmug,Mug,5.00,{count}\n")
    assert shop.items()["mug"].available is available


def test_parquet_values_that_are_none_cost_themselves_only(shop: Shop) -> None:
    def text(*values: bytes) -> pa.Array:
        return pa.array(values).view(pa.string())  # as some writers do, without a look

    table = pa.table(
        {
            "item_id": text(b"1", b"2", b"\xff"),
            "title": text(b"One", b"\xc3", b"Three"),
            "description": ["", "Two", ""],
            "updated_at": pa.array([10**18, 1767225600 * 10**6, 0], pa.timestamp("us")),
        }
    )
    pq.write_table(table, shop.folder / "feed.parquet")
    report = shop.ingest((shop.folder / "feed.parquet").read_bytes(), "feed.parquet")
    assert shop.items() == {"1": Item("1", "One"), "2": Item("2", None, "Two", updated_at=1767225600.0)}
    assert shop.rejects() == [(3, "bad_id")]
    assert report.repaired == {"text_unreadable": 1, "updated_at_unknown": 1}


def test_gzip_missing_files_and_formats_that_are_none(shop: Shop) -> None:
    feed = gzip.compress(b'{"item_id": "1", "title": "a"}\n' * 1000)
    assert shop.ingest(feed, "feed.jsonl.gz").read == 1000
    with pytest.raises(Damaged, match="not whole"):
        shop.ingest(feed[:-30], "feed.jsonl.gz")
    with pytest.raises(Missing, match="no feed"):
        ingest(shop.folder / "nothing.csv", shop.store)
    with pytest.raises(BadInput, match="no format 'xlsx'"):
        shop.ingest("item_id,title\n1,a\n", format="xlsx")
    with pytest.raises(BadInput, match="one JSON array"):
        shop.ingest('[{"item_id": "1"}]', "feed.json")


# --- publishing


def rows(count: int, start: int = 0) -> str:
    return "item_id,title\n" + "".join(f"{n},Title {n}\n" for n in range(start, start + count))


def test_a_feed_that_more_than_halves_the_catalogue_needs_force(shop: Shop) -> None:
    first = shop.ingest(rows(10))
    with pytest.raises(BadInput, match=r"4 usable products where the catalogue has 10.*refused") as refusal:
        shop.ingest(rows(4) + ",no id\n")
    assert refusal.value.field == "feed"
    refused = shop.store / "catalogue/refused"
    assert sorted(path.name for path in refused.iterdir()) == ["rejects.jsonl", "report.json"]
    assert json.loads((refused / "report.json").read_text())["rejects"] == {"missing_id": 1}
    assert Catalogue.current(shop.store).version == first.version
    assert shop.ingest(rows(5)).kept == 5
    assert shop.ingest(rows(1), force=True).kept == 1
    assert shop.ingest("", force=True).kept == 0


def test_versions_are_named_by_content_and_old_ones_go(shop: Shop) -> None:
    first = shop.ingest(rows(5))
    again = shop.ingest(rows(5) + ",no id\n0,Title 0\n0,Title 0\n")
    assert again.version != first.version  # another order
    same = shop.ingest("item_id,junk,title\n,,\n0,j,Title 0\n" + "".join(f"{n},j,Title {n}\n" for n in range(1, 5)))
    assert same.version == first.version
    assert (same.unchanged, shop.ingest(rows(5)).unchanged) == (False, True)
    last = shop.ingest(rows(6))
    folders = {path.name for path in (shop.store / "catalogue").iterdir() if not path.name.startswith(".")}
    assert folders == {first.version, last.version, "current"}


def test_what_a_killed_ingest_left_is_removed_and_a_second_at_once_is_refused(shop: Shop) -> None:
    shop.ingest(rows(3))
    leftover = shop.store / "catalogue/.new-killed"
    leftover.mkdir()
    (leftover / "staged.arrow").write_bytes(b"half")

    def at_the_end(done: int, total: int, count: int) -> None:
        assert (done, count) == (total, 4)
        assert not leftover.exists()
        with pytest.raises(BadInput, match="another ingest"):
            ingest(shop.folder / "feed.csv", shop.store)
        assert len(Catalogue.current(shop.store)) == 3  # not yet

    shop.ingest(rows(4), progress=at_the_end)
    assert list((shop.store / "catalogue").glob(".new-*")) == []


def test_a_damaged_catalogue_is_named_and_replaced_by_the_next_ingest(shop: Shop) -> None:
    with pytest.raises(Missing, match="no catalogue yet"):
        Catalogue.current(shop.store)
    version = shop.ingest(rows(100)).version
    file = shop.store / "catalogue/current/items.arrow"
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:-5], b"", b"ARROW1"):
        file.write_bytes(broken)
        with pytest.raises(Damaged, match=r"items\.arrow"):
            Catalogue.current(shop.store)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, pa.schema([("other", pa.int8())])):
        pass
    with pytest.raises(Damaged, match="other columns"):
        Catalogue.open(shop.store / "catalogue" / version)
    assert shop.ingest(rows(100)).version == version
    assert file.read_bytes() == whole


def test_rows_of_many_batches_are_found(shop: Shop) -> None:
    shop.ingest(rows(40_000) + rows(3, start=20_000).partition("\n")[2])
    catalogue = Catalogue.current(shop.store)
    ids = catalogue.ids().to_pylist()
    assert len(catalogue) == 40_000
    assert ids[-3:] == ["20000", "20001", "20002"]
    assert all(catalogue.item(row).item_id == ids[row] for row in (0, 16_383, 16_384, 19_999, 20_000, 39_999))
    assert catalogue.column("title")[7].as_py() == "Title 7"
    with pytest.raises(IndexError):
        catalogue.item(40_000)


# --- properties

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8) | st.text('",;\t|\r\n x', max_size=8)


@settings(max_examples=60)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6), st.sampled_from(",;\t|"), st.sampled_from(["\r\n", "\n"]))
def test_whatever_a_csv_writer_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, str, str]], delimiter: str, ending: str
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerows([("item_id", "title", "brand"), *table])
    path = tmp_path_factory.getbasetemp() / "property.csv"
    path.write_bytes(text.getvalue().encode())
    with open_feed(path, format="csv") as feed:
        read = [tuple(record.values.values()) if isinstance(record, Record) else record for record in feed.records]
    assert read == table


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=200) | st.text('1a",\n\r\0é{}[]:', max_size=60).map(str.encode),
    st.sampled_from(["csv", "jsonl"]),
)
def test_arbitrary_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, noise: bytes, kind: str) -> None:
    shop = Shop(tmp_path_factory.mktemp("noise"))
    start = b"item_id,title\n" if kind == "csv" else b'{"item_id": 1, "title": "a"}\n'
    shop.ingest(start + noise, f"feed.{kind}")


# --- the files beside the repository


@pytest.mark.skipif(not (DATA / "magento-luma").is_dir(), reason=f"no Magento Luma in {DATA}")
def test_luma(tmp_path: Path) -> None:
    mapping = Mapping.load(Path(__file__).parent / "data/luma.toml")
    report = ingest(DATA / "magento-luma/catalog.csv", tmp_path, mapping=mapping)
    assert (report.read, report.kept, report.rejected, report.repaired, report.ignored_columns) == (467, 467, 0, {}, [])
    items = [item for batch in Catalogue.current(tmp_path).batches() for item in batch]
    images = [image for item in items for image in item.images]
    assert (len(images), len(set(images))) == (724, 714)  # some products share an image
    hoodie = items[0]
    assert (hoodie.item_id, hoodie.price, hoodie.currency, hoodie.brand) == ("MH01-Black", 52.0, "USD", None)
    assert hoodie.category == "Men/Tops/Hoodies & Sweatshirts"
    assert hoodie.attributes["sizes"] == ["L", "M", "S", "XL", "XS"]
    assert hoodie.attributes["climate"] == ["All-weather", "Cool", "Indoor", "Spring", "Windy"]
    assert (hoodie.attributes["color"], hoodie.attributes["parent_sku"]) == (["Black"], ["MH01"])


TREE = "id,name,parent_id\n14,Hoodies,10\n10,Men,\n20,Bags/Cases,\n"


def test_category_numbers_become_paths_of_the_shops_tree(tmp_path: Path) -> None:
    (tmp_path / "tree.csv").write_text(TREE)
    (tmp_path / "mapping.toml").write_text('[category_tree]\nfile = "tree.csv"\n')
    rows = "item_id,title,category\na,A,14\nb,B,20\nc,C,Home/Lamps\nd,D,\n"
    (tmp_path / "feed.csv").write_text(rows)
    ingest(tmp_path / "feed.csv", tmp_path / "store", mapping=Mapping.load(tmp_path / "mapping.toml"))
    found = Catalogue.current(tmp_path / "store").column("category").to_pylist()
    assert found == ["Men/Hoodies", "Bags Cases", "Home/Lamps", None]


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ("id,name,parent_id\n1,A,2\n2,B,1\n", "its own parent"),
        ("id,name,parent_id\n1,A,9\n", "parent '9' of 'A' is missing"),
        ("id,name,parent_id\n1,,\n", "without id or name"),
        ("id,title,parent_id\n1,A,\n", "no column name"),
    ],
)
def test_a_tree_that_is_none_is_named(tmp_path: Path, tree: str, told: str) -> None:
    (tmp_path / "tree.csv").write_text(tree)
    (tmp_path / "mapping.toml").write_text('[category_tree]\nfile = "tree.csv"\n')
    with pytest.raises(BadInput, match=told):
        Mapping.load(tmp_path / "mapping.toml")
    (tmp_path / "mapping.toml").write_text('[category_tree]\nfile = "tree.csv"\ncolumn = "x"\n')
    with pytest.raises(BadInput, match="column"):
        Mapping.load(tmp_path / "mapping.toml")
