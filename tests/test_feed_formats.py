"""Formats and mappings of feeds: Merchant Center, Shopify, Parquet, gzip, category trees; invalid ones are refused."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.catalogue import FeedShop

from embed.catalogue import Catalogue, FeedMapping, Item, ingest
from embed.errors import BadInput, Damaged, Missing


@pytest.fixture
def shop(tmp_path: Path) -> FeedShop:
    return FeedShop(tmp_path)


# --- mapping


def test_a_feed_that_does_not_say_what_is_what_is_refused_with_its_columns(shop: FeedShop) -> None:
    with pytest.raises(BadInput, match=r"no column for item_id; columns of the feed: sku, name;.*item_id = "):
        shop.ingest("sku,name\n1,Shoe\n")
    with pytest.raises(BadInput, match="no column for title, description or image; columns of the feed: item_id, name"):
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
        ('[defaults]\nitem_id="a"', "use one of title"),
        ('format="xlsx"', "use one of csv"),
        ("delimiter=5", "text in quotes"),
        ("[columns", "not valid TOML"),
        ("columns=5", "must be a table"),
    ],
)
def test_mistakes_in_a_mapping_are_named_with_the_fix(shop: FeedShop, toml: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        shop.mapping(toml)


def test_a_mapping_of_columns_the_feed_lacks_is_refused(shop: FeedShop) -> None:
    with pytest.raises(BadInput, match="lacks: colour; columns of the feed: item_id, title"):
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
def test_merchant_tsv(shop: FeedShop, space: str) -> None:
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
def test_merchant_xml(shop: FeedShop, xml: str) -> None:
    report = shop.ingest(gzip.compress(xml.encode()), "feed.xml.gz")
    assert report.format == "merchant"
    assert shop.items() == {"SKU1": MERCHANT_ITEM, "2": Item("2", "Two")}


def test_hostile_or_cut_xml_is_refused_and_the_catalogue_stays(shop: FeedShop) -> None:
    shop.ingest(RSS, "feed.xml")
    bomb = '<!DOCTYPE x [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;">]>' + RSS.removeprefix('<?xml version="1.0"?>')
    with pytest.raises(BadInput, match="entity 'lol'"):
        shop.ingest(bomb, "feed.xml")
    with pytest.raises(Damaged, match="truncated"):
        shop.ingest(RSS[:-30], "feed.xml")
    with pytest.raises(BadInput, match="a product of more than"):
        shop.ingest("<rss><item><title>" + "x" * (1 << 24), "feed.xml")
    for encoding in ("klingon", "utf-7", "big5"):
        with pytest.raises(BadInput, match="save it as UTF-8"):
            shop.ingest(f'<?xml version="1.0" encoding="{encoding}"?><rss></rss>', "feed.xml")
    assert len(shop.items()) == 2


def test_shopify(shop: FeedShop) -> None:
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


def test_parquet(shop: FeedShop) -> None:
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


def test_a_shopify_product_without_end_takes_linear_time(shop: FeedShop) -> None:
    rows = "".join(f"mug,Mug,5.00,S{number},{number}.jpg\n" for number in range(10_000))
    report = shop.ingest(f"Handle,Title,Variant Price,Variant SKU,Image Src\n{rows}")
    assert report.kept == 10_000
    assert shop.items()["S9999"].images == [f"{number}.jpg" for number in range(20)]


@pytest.mark.parametrize(
    ("count", "available"), [("", True), ("3", True), ("0", False), ("-4", False), ("--5", True), ("-" * 20, True)]
)
def test_a_count_in_stock_that_is_none_says_nothing(shop: FeedShop, count: str, available: bool) -> None:
    shop.ingest(f"Handle,Title,Variant Price,Variant Inventory Qty\nmug,Mug,5.00,{count}\n")
    assert shop.items()["mug"].available is available


def test_parquet_values_that_are_none_cost_themselves_only(shop: FeedShop) -> None:
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


def test_gzip_missing_files_and_formats_that_are_none(shop: FeedShop) -> None:
    feed = gzip.compress(b'{"item_id": "1", "title": "a"}\n' * 1000)
    assert shop.ingest(feed, "feed.jsonl.gz").read == 1000
    with pytest.raises(Damaged, match="truncated"):
        shop.ingest(feed[:-30], "feed.jsonl.gz")
    with pytest.raises(Missing, match=r"feed .* does not exist"):
        ingest(shop.folder / "nothing.csv", shop.store)
    with pytest.raises(BadInput, match="format 'xlsx' is not supported"):
        shop.ingest("item_id,title\n1,a\n", format="xlsx")
    with pytest.raises(BadInput, match="one JSON array"):
        shop.ingest('[{"item_id": "1"}]', "feed.json")


TREE = "id,name,parent_id\n14,Hoodies,10\n10,Men,\n20,Bags/Cases,\n"


def test_category_numbers_become_paths_of_the_shops_tree(tmp_path: Path) -> None:
    (tmp_path / "tree.csv").write_text(TREE)
    (tmp_path / "mapping.toml").write_text('[category_tree]\nfile = "tree.csv"\n')
    rows = "item_id,title,category\na,A,14\nb,B,20\nc,C,Home/Lamps\nd,D,\n"
    (tmp_path / "feed.csv").write_text(rows)
    ingest(tmp_path / "feed.csv", tmp_path / "store", mapping=FeedMapping.load(tmp_path / "mapping.toml"))
    found = Catalogue.current(tmp_path / "store").column("category").to_pylist()
    assert found == ["Men/Hoodies", "Bags Cases", "Home/Lamps", None]


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ("id,name,parent_id\n1,A,2\n2,B,1\n", "its own ancestor"),
        ("id,name,parent_id\n1,A,9\n", "parent '9' of 'A' does not exist"),
        ("id,name,parent_id\n1,,\n", "without id or name"),
        ("id,title,parent_id\n1,A,\n", "no column name"),
    ],
)
def test_a_tree_that_is_none_is_named(tmp_path: Path, tree: str, told: str) -> None:
    (tmp_path / "tree.csv").write_text(tree)
    (tmp_path / "mapping.toml").write_text('[category_tree]\nfile = "tree.csv"\n')
    with pytest.raises(BadInput, match=told):
        FeedMapping.load(tmp_path / "mapping.toml")
    (tmp_path / "mapping.toml").write_text('[category_tree]\nfile = "tree.csv"\ncolumn = "x"\n')
    with pytest.raises(BadInput, match="column"):
        FeedMapping.load(tmp_path / "mapping.toml")
