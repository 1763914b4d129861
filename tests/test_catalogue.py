"""The catalogue: malformed feeds with their exact outcome, publishing of versions, properties of ingestion."""

import csv
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.catalogue import HEADER, FeedShop
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.catalogue import (
    Catalogue,
    FeedMapping,
    Record,
    ingest,
    open_feed,
)
from embed.errors import BadInput, Damaged, Missing
from embed.records import MAX_RECORD

DATA = Path(os.environ.get("VETRINA_DATA", Path(__file__).parents[1] / "../shared/data"))


@pytest.fixture
def shop(tmp_path: Path) -> FeedShop:
    return FeedShop(tmp_path)


# --- every kind of mess, inline


def test_byte_order_mark_and_quotes_leave_the_header_readable(shop: FeedShop) -> None:
    shop.ingest('\ufeff"item_id","title"\r\n"1001","Red shoe"\r\n"1002","Blue shoe"\r\n')
    assert list(shop.items()) == ["1001", "1002"]


def test_ids_are_text_to_the_last_zero(shop: FeedShop) -> None:
    shop.ingest(HEADER + "".join(f"{name},Mug,,4,EUR,home,\r\n" for name in ("00123", "123", "0123", "1e5", "100000")))
    assert list(shop.items()) == ["00123", "123", "0123", "1e5", "100000"]


def test_last_of_duplicates_wins_and_earlier_ones_are_rejected(shop: FeedShop) -> None:
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


def test_words_that_look_like_nothing_stay_titles(shop: FeedShop) -> None:
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


def test_quotes_and_newlines_inside_a_cell(shop: FeedShop) -> None:
    shop.ingest(
        HEADER + '3001,"24"" monitor, ""UltraSharp""","Line one\nLine two, with comma\n\nLine four",199,EUR,it,\r\n'
        "3002,After,still 3002,9,EUR,it,\r\n"
    )
    monitor, after = shop.items().values()
    assert monitor.title == '24" monitor, "UltraSharp"'
    assert monitor.description == "Line one\nLine two, with comma\n\nLine four"
    assert (after.item_id, after.description) == ("3002", "still 3002")


def test_long_and_short_rows_are_rejected_by_line_and_stray_quotes_kept(shop: FeedShop) -> None:
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
def test_an_unclosed_quote_costs_its_own_line_only(shop: FeedShop, closed_by: str) -> None:
    good = "".join(f"{number},Title {number},,,,,\n" for number in range(100, 400))
    report = shop.ingest(HEADER + '1,"never closed,ok,1,EUR,misc,\n' + good + closed_by)
    assert report.kept == 300 + bool(closed_by)
    assert shop.rejects() == [(2, "bad_quotes")]


def test_an_unclosed_quote_in_a_long_file_is_given_up_at_the_bound(shop: FeedShop) -> None:
    rows = MAX_RECORD // 40 + 1000
    report = shop.ingest("item_id,title\n" + '1,"open\n' + "".join(f"{n:08d},{'x' * 40}\n" for n in range(rows)))
    assert (report.kept, report.rejects) == (rows, {"bad_quotes": 1})


def test_lines_that_are_no_utf8_are_rejected_alone(shop: FeedShop) -> None:
    rows = ["8001,Crème brûlée".encode(), "8002,Crème".encode("latin-1"), "8003,“Smart” €5".encode("cp1252")]
    feed = b"item_id,title\n" + b"\n".join(rows)
    shop.ingest(feed)
    assert shop.items()["8001"].title == "Crème brûlée"
    assert shop.rejects() == [(3, "bad_encoding"), (4, "bad_encoding")]
    latin = b"item_id,title\n" + rows[1]
    shop.ingest(latin, force=True, mapping=FeedMapping(encoding="latin-1"))
    assert shop.items()["8002"].title == "Crème"
    with pytest.raises(BadInput, match="encoding 'klingon' is unknown"):
        shop.ingest(latin, mapping=FeedMapping(encoding="klingon"))


def test_a_header_of_several_lines_has_to_be_text_in_all_of_them(shop: FeedShop) -> None:
    with pytest.raises(BadInput, match="the header line cannot be decoded"):
        shop.ingest(b'item_id,"ti\ntle \xff",title\n1,x,a\n')


def test_columns_that_come_again_get_numbers_in_linear_time(shop: FeedShop) -> None:
    report = shop.ingest("item_id,a,title,a (2),a,a" + "," * 200_000 + "\n")
    assert report.ignored_columns[:5] == ["a", "a (2)", "a (3)", "a (4)", "column 7"]
    assert len(report.ignored_columns) == 200_004


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
def test_unicode_with_a_byte_order_mark_is_read(shop: FeedShop, encoding: str) -> None:
    mark = "\ufeff" if encoding.endswith(("-le", "-be")) else ""
    shop.ingest((mark + "item_id,title\r\n8201,Größe ¼\r\n").encode(encoding))
    assert shop.items()["8201"].title == "Größe ¼"


def test_nul_is_removed_from_text_but_not_from_ids(shop: FeedShop) -> None:
    report = shop.ingest("item_id,title\n8101,Nul\0l inside\n8102,Clean\n81\x0003,Id\n")
    assert [item.title for item in shop.items().values()] == ["Null inside", "Clean"]
    assert report.repaired == {"nul_removed": 1}
    assert shop.rejects() == [(4, "bad_id")]
    with pytest.raises(BadInput, match="utf-16-le"):
        shop.ingest("item_id,title\n1,a\n".encode("utf-16-le"))


def test_broken_json_lines_cost_themselves_only(shop: FeedShop) -> None:
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


def test_scripts_of_the_world_come_back_byte_for_byte(shop: FeedShop) -> None:
    titles = ["👩🏽‍🚀🏳️‍🌈", "红色跑步鞋", "حذاء جري", "נעל ריצה", "\u202eeohs", "Ｒｅｄ\u3000ｓｈｏｅ", "İSTANBUL ıslak"]
    lines = [json.dumps({"item_id": number, "title": title}) for number, title in enumerate(titles)]
    shop.ingest("\n".join([*lines, json.dumps({"item_id": "blank", "title": "\u200b\ufeff\u200b"})]), "feed.jsonl")
    assert [item.title for item in shop.items().values()] == titles
    assert shop.rejects() == [(len(titles) + 1, "nothing_to_embed")]


@pytest.mark.parametrize("content", ["", "\n\n", HEADER, "\ufeff"])
def test_a_feed_without_rows_is_an_empty_catalogue_but_replaces_none(shop: FeedShop, content: str) -> None:
    assert shop.ingest(content).kept == 0
    shop.ingest("item_id,title\n1,a\n")
    with pytest.raises(BadInput, match="0 usable products, less than half of the 1 in"):
        shop.ingest(content)
    assert list(shop.items()) == ["1"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_known_by_the_header(shop: FeedShop, delimiter: str) -> None:
    shop.ingest('"item_id"|"a,b;c;d;e"|title|price\n8401|x|Lampe|"12,50"\n'.replace("|", delimiter))
    assert shop.items()["8401"].price == 12.5


# --- publishing


def rows(count: int, start: int = 0) -> str:
    return "item_id,title\n" + "".join(f"{n},Title {n}\n" for n in range(start, start + count))


def test_a_feed_that_more_than_halves_the_catalogue_needs_force(shop: FeedShop) -> None:
    first = shop.ingest(rows(10))
    with pytest.raises(BadInput, match=r"4 usable products, less than half of the 10 in.*refused") as refusal:
        shop.ingest(rows(4) + ",no id\n")
    assert refusal.value.field == "feed"
    refused = shop.store / "catalogue/refused"
    assert sorted(path.name for path in refused.iterdir()) == ["rejects.jsonl", "report.json"]
    assert json.loads((refused / "report.json").read_text())["rejects"] == {"missing_id": 1}
    assert Catalogue.current(shop.store).version == first.version
    assert shop.ingest(rows(5)).kept == 5
    assert shop.ingest(rows(1), force=True).kept == 1
    assert shop.ingest("", force=True).kept == 0


def test_versions_are_named_by_content_and_old_ones_go(shop: FeedShop) -> None:
    first = shop.ingest(rows(5))
    again = shop.ingest(rows(5) + ",no id\n0,Title 0\n0,Title 0\n")
    assert again.version != first.version  # another order
    same = shop.ingest("item_id,junk,title\n,,\n0,j,Title 0\n" + "".join(f"{n},j,Title {n}\n" for n in range(1, 5)))
    assert same.version == first.version
    assert (same.unchanged, shop.ingest(rows(5)).unchanged) == (False, True)
    last = shop.ingest(rows(6))
    folders = {path.name for path in (shop.store / "catalogue").iterdir() if not path.name.startswith(".")}
    assert folders == {first.version, last.version, "current"}


def test_what_a_killed_ingest_left_is_removed_and_a_second_at_once_is_refused(shop: FeedShop) -> None:
    shop.ingest(rows(3))
    leftover = shop.store / "catalogue/.new-killed"
    leftover.mkdir()
    (leftover / "staged.arrow").write_bytes(b"half")

    def at_the_end(done: int, total: int) -> None:
        assert done == total
        assert not leftover.exists()
        with pytest.raises(BadInput, match="another ingest"):
            ingest(shop.folder / "feed.csv", shop.store)
        assert len(Catalogue.current(shop.store)) == 3  # not yet

    shop.ingest(rows(4), progress=at_the_end)
    assert list((shop.store / "catalogue").glob(".new-*")) == []


def test_a_damaged_catalogue_is_named_and_replaced_by_the_next_ingest(shop: FeedShop) -> None:
    with pytest.raises(Missing, match="has no catalogue"):
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
    with pytest.raises(Damaged, match="does not have the columns"):
        Catalogue.open(shop.store / "catalogue" / version)
    assert shop.ingest(rows(100)).version == version
    assert file.read_bytes() == whole


def test_rows_of_many_batches_are_found(shop: FeedShop) -> None:
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
    shop = FeedShop(tmp_path_factory.mktemp("noise"))
    start = b"item_id,title\n" if kind == "csv" else b'{"item_id": 1, "title": "a"}\n'
    shop.ingest(start + noise, f"feed.{kind}")


# --- the files beside the repository


@pytest.mark.skipif(not (DATA / "magento-luma").is_dir(), reason=f"no Magento Luma in {DATA}")
def test_luma(tmp_path: Path) -> None:
    mapping = FeedMapping.load(Path(__file__).parent / "data/luma.toml")
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
