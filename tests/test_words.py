"""Search by words: terms, spelling, prices in words, facets, suggestions, and how much each source counts."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.service import Service, good, refused, served
from hypothesis import given, settings
from hypothesis import strategies as st

from embed.behaviour import Event
from embed.catalogue import Catalogue, ingest
from index.errors import IndexDamaged
from index.keyword_index import K1, B, KeywordOverlay, open_keyword_index, write_keyword_index
from serve.core.errors import StoreUnavailable
from serve.core.settings import Settings
from serve.engine.query import Query
from serve.jobs.build import build
from serve.live.replica import open_engine
from serve.live.runtime import ServiceRuntime
from serve.release.repository import open_current
from serve.search.analyzer import Analyzer, fold
from serve.search.facets import build_facet, count_facet
from serve.search.fusion_weights import MIN_SEARCHES, learn_weights
from serve.search.price_parser import parse_price_bounds
from serve.search.vocabulary import SearchVocabulary, write_vocabulary
from serve.storage.event_log import open_event_log

ENGLISH = Analyzer("english")

# -------------------------------------------------------------------------------------------------------- the index

TEXTS = st.lists(st.dictionaries(st.integers(1, 12), st.sampled_from([0.5, 1.0, 2.0, 3.5]), max_size=6), max_size=12)


def bm25(texts: list[dict[int, float]], lengths: list[float], wanted: dict[int, float]) -> list[float]:
    """As it is written down, one item after the other."""
    mean = sum(lengths) / len(lengths)
    scores = []
    for text, length in zip(texts, lengths, strict=True):
        score = 0.0
        for term, much in wanted.items():
            frequency = sum(term in other for other in texts)
            if count := text.get(term, 0.0):
                idf = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
                score += much * idf * count * (K1 + 1) / (count + K1 * (1 - B + B * length / max(mean, 1e-6)))
        scores.append(score)
    return scores


@given(texts=TEXTS, wanted=st.dictionaries(st.integers(1, 14), st.sampled_from([0.2, 1.0, 2.0]), max_size=5))
@settings(max_examples=60, deadline=None)
def test_scores_are_those_of_the_formula(
    tmp_path_factory: pytest.TempPathFactory, texts: list[dict[int, float]], wanted: dict[int, float]
) -> None:
    folder = tmp_path_factory.mktemp("lexical") / "postings"
    lengths = [sum(text.values()) for text in texts]
    write_keyword_index(folder, zip(texts, lengths, strict=True))
    index = open_keyword_index(folder)
    assert index.items == len(texts)
    if texts:
        np.testing.assert_allclose(index.scores(wanted), bm25(texts, lengths, wanted), rtol=1e-5, atol=1e-6)
        # What comes later is weighed as what was there: the same text gets the same score.
        added = KeywordOverlay(index)
        for number, (text, length) in enumerate(zip(texts, lengths, strict=True)):
            added.append(number, text, length)
        np.testing.assert_allclose(added.scores(wanted, len(texts)), index.scores(wanted), rtol=1e-5, atol=1e-6)
        for term in range(1, 14):
            holding = [number for number, text in enumerate(texts) if term in text]
            assert index.items_with_term(term).tolist() == added.items_with_term(term, len(texts)).tolist() == holding
            assert index.document_frequency(term) == len(holding)
    (folder / "terms.npy").write_bytes(b"PK\x03\x04")
    with pytest.raises(IndexDamaged, match=r"terms\.npy"):
        open_keyword_index(folder)


# --------------------------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hoodies", "HOODIE"),
        ("Café", "cafe"),
        ("ＡＢＣ", "abc"),
        ("running shoes", "Run shoe"),
        ('3/8" hose', "3/8 inch hoses"),
        ("5' ladder", "5 ft. ladders"),
        ("2 gallons", "2-gal"),
    ],
)
def test_what_is_the_same_has_the_same_terms(one: str, other: str) -> None:
    def terms(text: str) -> list[str]:
        return [term for term, _ in ENGLISH.terms(ENGLISH.words(text))]

    assert terms(one) == terms(other)


def test_codes_stay_whole_and_scripts_without_blanks_are_cut() -> None:
    assert list(ENGLISH.terms(["mh01"])) == [("mh01", True), ("mh", False), ("01", False)]
    assert ENGLISH.words("MH01-XS 36x34 3.5mm") == ["mh01", "xs", "36x34", "3.5", "mm"]
    assert ENGLISH.words("赤いシャツ M") == ["赤い", "いシ", "シャ", "ャツ", "m"]
    assert fold("パガ") == "パガ"  # marks that are letters
    assert Analyzer("german").stem("schuhe") == Analyzer("german").stem("schuh")
    assert Analyzer("none").stem("schuhe") == "schuhe"
    assert ENGLISH.words("x" * 65) == []


@pytest.fixture(scope="module")
def lexicon(tmp_path_factory: pytest.TempPathFactory) -> SearchVocabulary:
    folder = tmp_path_factory.mktemp("lexicon")
    titles = ["Black Hoodie", "Blue Hoodie", "Grey Wall Plate", "White Wall Plate", "Backpack", "Leather Bag"]
    rows = [{"item_id": f"HD{number:02}", "title": title} for number, title in enumerate(titles * 2)]
    (folder / "feed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ingest(folder / "feed.jsonl", folder / "store")
    write_vocabulary(folder / "words", Catalogue.current(folder / "store"), "english", [("hoodie with zip", 5)])
    return SearchVocabulary(folder / "words")


def test_misspelled_words_are_corrected_and_right_ones_are_not(lexicon: SearchVocabulary) -> None:
    assert lexicon.parse("hodie blak").corrected == {"hodie": "hoodie", "blak": "black"}
    assert lexicon.parse("hodie blak").text == "hoodie black"
    for right in ("hoodies Black", "HD01", "wallplate", "xyzzy gorp", "bag"):
        assert lexicon.parse(right).corrected == {}
        assert lexicon.parse(right).text == right


def test_words_match_written_apart_or_together(lexicon: SearchVocabulary) -> None:
    def found(text: str) -> set[int]:
        return set(np.flatnonzero(lexicon.index.scores(lexicon.parse(text).terms)).tolist())

    assert found("wallplate") == found("wall plate") == {2, 3, 8, 9}
    assert found("back pack") == found("backpack") == {4, 10}
    assert lexicon.index.scores(lexicon.parse("hd03").terms).argmax() == 3
    scores = lexicon.index.scores(lexicon.parse("grey wall plate").terms)
    assert scores.argmax() == 2


def test_suggestions_are_what_titles_say_and_shoppers_search(lexicon: SearchVocabulary) -> None:
    assert lexicon.suggest("hoo", 5) == ["hoodie with zip", "hoodie"]
    assert lexicon.suggest("wall pl", 5) == ["wall plate"]
    assert lexicon.suggest("hodie", 5) == ["hoodie with zip", "hoodie"]
    assert lexicon.suggest("", 5) == lexicon.suggest("qqq", 5) == []
    assert lexicon.suggest("b", 1) == ["backpack"]


@given(text=st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_can_be_asked_and_begun(lexicon: SearchVocabulary, text: str) -> None:
    asked = lexicon.parse(text)
    assert np.isfinite(lexicon.index.scores(asked.terms)).all()
    lexicon.suggest(text, 3)
    assert parse_price_bounds(text).filter == {} or any(each.isdigit() for each in text)


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="build again"):
        SearchVocabulary(tmp_path)


@pytest.mark.parametrize(
    ("text", "left", "price"),
    [
        ("yoga pants women under 50", "yoga pants women", {"lte": 50}),
        ("yoga pants under $49.99 for women", "yoga pants for women", {"lte": 49.99}),
        ("boots under $50 in black", "boots in black", {"lte": 50}),
        ("shoes between 20 and 50", "shoes", {"gte": 20, "lte": 50}),
        ("lamp 20 - 50 €", "lamp", {"gte": 20, "lte": 50}),
        ("toys from $5 to $10", "toys", {"gte": 5, "lte": 10}),
        ("bags over 100", "bags", {"gte": 100}),
        ("Hosen unter 50 Euro", "Hosen", {"lte": 50}),
        ("pantalon moins de 30,50 €", "pantalon", {"lte": 30.5}),
        ("scarpe sotto i 50", "scarpe", {"lte": 50}),
        ("mug over 5 under 20", "mug", {"gte": 5, "lte": 20}),
        ("max 20 usd mug", "mug", {"lte": 20}),
    ],
)
def test_prices_in_words_are_conditions(text: str, left: str, price: dict[str, float]) -> None:
    assert parse_price_bounds(text) == (left, {"price": price})


@pytest.mark.parametrize(
    "text",
    [
        "led bulb under 50 watt", "hose under 50 ft", "lamp under 50w", "under armour shirt", "t-shirt from 6 months",
        "20-50 mm pipe", "pants 30-32", "7-in-1 tool", "max 20 mug", "tile under 3/4", "under 50",
        "between 10 and 20 in",
    ],
)  # fmt: skip
def test_other_numbers_are_words(text: str) -> None:
    assert parse_price_bounds(text) == (text, {})


# -------------------------------------------------------------------------------------------------------- in a shop


ROWS: list[dict[str, Any]] = [
    {"item_id": f"{kind[:2].upper()}{number:02}-{colour}", "title": f"{colour} {kind}", "category": f"Shop/{kind}s",
     "brand": ("Acme", "Bolt")[number % 2], "price": 10.0 * (number + 1), "currency": "EUR",
     "attributes": {"color": [colour]}}
    for number, (kind, colour) in enumerate(
        (kind, colour) for kind in ("hoodie", "backpack", "lamp", "mug") for colour in ("black", "white", "red", "blue")
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("words")
    (folder / "feed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    configured = Settings(store=folder / "store")
    build(configured, folder / "feed.jsonl")
    return configured


@pytest.fixture(scope="module")
def running(small: Settings) -> Iterator[Service]:
    with served(small) as service:
        yield service


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_a_code_a_typo_and_a_price_find_what_is_meant(running: Service) -> None:
    def search(**body: Any) -> Any:
        return good(running.client.post("/v1/search", json={"k": 4, **body}))

    code = search(text="ba05")
    assert ids(code)[0] == "BA05-white"
    assert code["items"][0]["retriever_scores"]["keywords"] > 0
    typo = search(text="hodie blak")
    assert ids(typo)[0] == "HO00-black"
    assert typo["understood"] == {
        "text": "hoodie black", "filter": {}, "corrected": {"hodie": "hoodie", "blak": "black"}
    }  # fmt: skip
    cheap = search(text="lamp under 100")
    assert cheap["understood"] == {"text": "lamp", "filter": {"price": {"lte": 100.0}}, "corrected": {}}
    assert max(item["price"] for item in cheap["items"]) <= 100
    assert {item_id[:2] for item_id in ids(cheap)[:2]} == {"LA"}
    # The caller's own filter on prices stands, and nobody has to be understood.
    own = search(text="lamp under 100", filter={"price": {"gte": 110}})
    assert own["understood"]["filter"] == {}
    assert min(item["price"] for item in own["items"]) >= 110
    assert search(text="lamp under 100", understand=False)["understood"]["filter"] == {}
    alone = search(text="mug", spaces=["keywords"])
    assert sorted(ids(alone)) == sorted(row["item_id"] for row in ROWS if "mug" in row["title"])
    assert ids(search(text="qqqq", spaces=["keywords"])) == []
    assert len(ids(search(text="qqqq"))) == 4  # vectors always know something
    assert search(like=["LA08-black"])["understood"] == {"text": None, "filter": {}, "corrected": {}}


def test_facets_count_what_has_the_words(running: Service) -> None:
    body = {"text": "black", "facets": ["category", "brand", "color", "price", "available"], "k": 1}
    facets = good(running.client.post("/v1/search", json=body))["facets"]
    black = [row for row in ROWS if row["title"].startswith("black")]
    assert facets["color"] == [{"value": "black", "count": 4}]
    for name in ("category", "brand"):
        assert {each["value"]: each["count"] for each in facets[name]} == Counter(row[name] for row in black)
    assert sum(each["count"] for each in facets["price"]) == 4
    assert facets["price"][0]["from"] == 10
    assert facets["price"][-1]["to"] == 130
    some = good(running.client.post("/v1/search", json={**body, "filter": {"brand": "Acme"}, "facets": ["brand"]}))[
        "facets"
    ]
    assert some["brand"] == [{"value": "Acme", "count": 4}]
    error = refused(running.client.post("/v1/search", json={"text": "mug", "facets": ["colour"]}))
    assert (error["field"], "colour" in error["message"]) == ("facets", True)
    listed = good(running.client.get("/v1/suggest", params={"q": "red b"}))["suggestions"]
    assert listed == []  # said by one title only
    assert "hoodie" in good(running.client.get("/v1/suggest", params={"q": "hoo", "k": 3}))["suggestions"]
    assert refused(running.client.get("/v1/suggest"))["field"] == "q"


def test_what_changes_live_is_found_by_its_words_at_once(tmp_path: Path) -> None:
    feed = tmp_path / "feed.jsonl"
    feed.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    configured = Settings(store=tmp_path / "store")
    build(configured, feed)
    live = ServiceRuntime(configured)
    live.refresh()

    def found(text: str) -> list[str]:
        engine = live.engine
        return [
            engine.snapshot.item_id(one.item_index)
            for one in engine.search(Query(k=50, text=text, spaces=["keywords"]))
        ]

    def colors(text: str) -> dict[Any, int]:
        return {each["value"]: each["count"] for each in live.engine.facets(Query(k=1, text=text), ["color"])["color"]}

    assert found("umbrella") == []
    live.items.put([{**ROWS[0], "item_id": "UM99", "title": "Purple umbrella", "attributes": {"color": ["purple"]}}])
    changed = {"title": "green rucksack", "category": "Shop/rucksacks", "attributes": {"color": ["green"]}}
    live.items.put([{**ROWS[4], **changed}])
    live.items.delete([ROWS[5]["item_id"]])
    assert found("umbrella") == found("UM99") == ["UM99"]
    assert found("rucksack") == [ROWS[4]["item_id"]]
    assert sorted(found("backpack")) == sorted(row["item_id"] for row in ROWS[6:8])
    assert colors("umbrella") == {"purple": 1}
    assert colors("backpack") == {"red": 1, "blue": 1}
    assert build(configured).published
    live.refresh()
    assert found("umbrella") == ["UM99"]
    assert found(ROWS[5]["item_id"])[:1] != [ROWS[5]["item_id"]]


def test_facets_are_a_plain_count(small: Settings) -> None:
    catalogue = open_current(small.store).catalogue
    chosen = np.arange(len(ROWS)) % 3 == 0
    items = [catalogue.item(row) for row in range(len(ROWS))]
    for name in ("category", "brand", "color"):
        expected = Counter(
            value
            for item, take in zip(items, chosen, strict=True)
            if take
            for value in (item.attributes["color"] if name == "color" else [getattr(item, name)])
        )
        assert {
            each["value"]: each["count"] for each in count_facet(build_facet(catalogue, name), name, chosen, [])
        } == expected


# ------------------------------------------------------------------------------------------------- how much they count


def test_sources_count_by_what_shoppers_took_to_if_that_is_surely_better() -> None:
    random = np.random.default_rng(0)
    searches = [(f"q{number}", int(random.integers(50))) for number in range(400)]
    taken = dict(searches)

    def scores_of(query: str) -> dict[str, Any]:
        noise = np.random.default_rng(int(query[1:]))
        good_one, bad_one = noise.normal(size=(2, 50)).astype(np.float32)
        good_one[taken[query]] += 3
        return {"text": bad_one, "keywords": good_one}

    learned = learn_weights(searches, scores_of, ("text", "keywords"))
    assert learned is not None
    assert learned.weights["keywords"] > 1.4
    assert learned.after > learned.before + 0.1

    def noise_of(query: str) -> dict[str, Any]:
        return dict(zip(("text", "keywords"), np.random.default_rng(int(query[1:])).normal(size=(2, 50)), strict=True))

    even = learn_weights(searches, noise_of, ("text", "keywords"))
    assert even is not None
    assert even.weights == {"text": 1.0, "keywords": 1.0}
    assert even.after == even.before
    assert learn_weights(searches[: MIN_SEARCHES - 1], scores_of, ("text", "keywords")) is None


def test_a_build_learns_weights_and_suggestions_from_searches(tmp_path: Path) -> None:
    feed = tmp_path / "feed.jsonl"
    feed.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    configured = Settings(store=tmp_path / "store")
    assert build(configured, feed).manifest.fusion_weights is None
    log = open_event_log(configured)
    log.add(
        [
            Event(f"{number}-{word}", f"u{number % 7}", row["item_id"], "click", 1767225600.0, query=f"{word} {number}")
            for number, row in enumerate(ROWS * 4)
            for word in (*row["title"].split(), row["item_id"], "please", "dotted thing")
        ]
    )
    log.add(
        [Event(f"s{user}", f"u{user}", "MU12-black", "click", 1767225600.0, query="dotted mug") for user in range(3)]
    )
    log.add(
        [Event(f"r{user}", f"u{user}", "MU12-black", "click", 1767225600.0, query="mr x at home") for user in range(2)]
    )
    log.close()
    weighed = build(configured).manifest.fusion_weights
    assert weighed is not None
    assert weighed.searches > MIN_SEARCHES
    assert weighed.after >= weighed.before
    assert sum(weighed.weights.values()) == pytest.approx(len(weighed.weights), abs=0.01)
    words = open_engine(configured).snapshot.release.words
    assert words.suggest("dotted m", 3) == ["dotted mug"]
    assert words.suggest("mr x", 3) == []  # of two shoppers only
