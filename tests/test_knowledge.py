"""What the shop says of its items: links and what they imply, where complements and substitutes are shown."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.service import good, refused, served
from scipy import sparse

from embed.behaviour import Event
from embed.behaviour.interactions import KINDS
from embed.catalogue import Catalogue
from embed.errors import BadInput
from serve import cli
from serve.core.settings import Settings
from serve.jobs.build import build
from serve.live.replica import open_engine
from serve.live.runtime import ServiceRuntime
from serve.recommend.retrieval import relation_graph
from serve.recommend.retrieval.item_relations import FILE, ItemRelations, import_links, read_relations
from serve.recommend.retrieval.relation_graph import (
    BACKWARDS,
    CONTINUE,
    STEPS,
    RelationGraph,
    RelationRetriever,
    relation_kind,
)
from serve.recommend.retrieval.user_history import UserHistory
from serve.storage.event_log import open_event_log


def known(links: dict[str, dict[str, tuple[str, ...]]], categories: dict[str, str]) -> RelationGraph:
    found = RelationGraph.build(ItemRelations(links), list(categories), list(categories.values()))
    assert found is not None
    return found


def test_links_are_propagated_as_a_walk_does() -> None:
    random = np.random.default_rng(0)
    names = [f"i{number}" for number in range(12)]
    pairs = {(one, other) for one, other in random.integers(12, size=(20, 2)).tolist() if one != other}
    table: dict[str, tuple[str, ...]] = {}
    for one, other in sorted(pairs):
        table[names[one]] = (*table.get(names[one], ()), names[other])
    both = np.zeros((12, 12))
    for one, other in pairs:
        both[one, other] += 1
        both[other, one] += BACKWARDS
    walk = both / np.maximum(both.sum(1, keepdims=True), 1e-9)
    expected = np.eye(12)
    for _ in range(STEPS):
        expected = CONTINUE * expected @ walk + (1 - CONTINUE) * np.eye(12)
    np.fill_diagonal(expected, 0)
    expected /= np.maximum(expected.max(1, keepdims=True), 1e-9)
    made = known({"related": table}, dict.fromkeys(names, "a"))
    for item in range(12):
        items, scores = made.linked("related", item)
        dense = np.zeros(12)
        dense[items] = scores
        np.testing.assert_allclose(dense, expected[item], atol=1e-5)
        assert items.tolist() == sorted(items.tolist())


def test_an_item_without_links_has_those_of_what_shoppers_go_to() -> None:
    names = ["a", "b", "c", "d"]
    visited = sparse.csr_array(([1.0], ([3], [0])), (4, 4))  # from d shoppers go to a, which is linked to b
    made = RelationGraph.build(ItemRelations({"related": {"a": ("b",)}}), names, [None] * 4, visited)
    assert made is not None
    assert made.linked("related", 3)[0].tolist() == [1]
    assert made.linked("related", 2)[0].tolist() == []
    assert made.linked("related", 0)[0].tolist() == [1]


def test_only_the_strongest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relation_graph, "MAX_REACHED", 3)
    names = [f"i{number}" for number in range(9)]
    made = known({"related": {"i0": tuple(names[1:])}}, dict.fromkeys(names, "a"))
    assert len(made.linked("related", 0)[0]) <= 3


def test_categories_imply_for_items_without_a_link(tmp_path: Path) -> None:
    categories = {f"{kind}{number}": kind for kind in ("hoodie", "pant", "mug") for number in range(4)}
    links = {f"hoodie{number}": (f"pant{number}",) for number in range(3)}
    made = known({"crosssell": links}, categories)
    implied = made.implied("crosssell", 3)  # hoodie3 has no link
    assert implied[4:8].min() > 0 > implied[8:].max()
    made.write(tmp_path / "knowledge")
    again = RelationGraph.open(tmp_path / "knowledge")
    assert again is not None
    assert again.fingerprint == made.fingerprint
    np.testing.assert_array_equal(again.implied("crosssell", 3), implied)
    assert RelationGraph.open(tmp_path / "nothing") is None
    assert RelationGraph.build(ItemRelations({"crosssell": {"x": ("y",)}}), ["a"], [None]) is None


@pytest.mark.parametrize(
    ("relation", "kind"),
    [
        ("Cross-Sell", "complement"),
        ("accessory_of", "complement"),
        ("upsell", "substitute"),
        ("same-series", "related"),
    ],
)
def test_relations_are_of_three_kinds(relation: str, kind: str) -> None:
    assert relation_kind(relation) == kind


def test_complements_follow_what_was_taken_and_substitutes_what_was_looked_at() -> None:
    categories = dict.fromkeys(("machine", "filter", "other machine", "cup"), "a")
    links = {
        "accessory": {"machine": ("filter",)},
        "upsell": {"machine": ("other machine",)},
        "series": {"machine": ("cup",)},
    }
    source = RelationRetriever(known(links, categories))

    def proposed(kind: str, weight: float = 1.0) -> list[int]:
        user = UserHistory(
            np.array([0]), np.array([KINDS.index(kind)]), np.array([0.0]), np.array([weight], np.float32)
        )
        found = source.retrieve(user)
        return [] if found is None else sorted(found.best(10, None).tolist())

    assert proposed("purchase") == proposed("cart") == [1, 3]
    assert proposed("view") == proposed("click") == [2, 3]
    assert proposed("dislike", 0.0) == []


ROWS = [
    {"item_id": f"{parent}-{color}", "title": f"{color} {title}", "category": category, "price": 9,
     "attributes": {"parent_sku": [parent]}}
    for parent, title, category in (
        ("M1", "coffee machine", "Machines"), ("M2", "espresso machine", "Machines"), ("F1", "paper filter", "Filters"),
        ("F2", "gold filter", "Filters"), ("C1", "coffee cup", "Cups"), ("C2", "tea cup", "Cups"),
    )
    for color in ("red", "blue")
]  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Settings:
    (tmp_path / "feed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    configured = Settings(store=tmp_path / "store", new_share=0.0)
    build(configured, tmp_path / "feed.jsonl")
    return configured


def write_links(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("sku", "linked", "kind"), *rows])
    return path


def test_links_of_products_become_those_of_their_items_and_answers(
    store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    links = [("M1", "F1", "accessory"), ("M1", "M2", "upsell"), ("M1", "nothing", "upsell"), ("", "F1", "accessory")]
    path = write_links(tmp_path / "links.csv", links)
    asked = ["relations", str(path), "--item", "sku", "--other", "linked", "--relation", "kind", "--by", "parent_sku"]
    monkeypatch.setattr("sys.argv", ["vetrina", *asked, "--store", str(store.store), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    told = json.loads(capfd.readouterr().out)
    assert (told["read"], told["unknown"], told["links"]) == (4, 2, {"accessory": 4, "upsell": 4})
    log = open_event_log(store)
    log.add([Event("b", "buyer", "M1-red", "purchase", 1767225600.0)])
    log.add([Event("v", "viewer", "M1-red", "view", 1767225600.0)])
    log.close()
    assert build(store).published
    assert open_engine(store).snapshot.release.behaviour.metadata.knowledge

    with served(store) as service:

        def ids(path: str) -> list[str]:
            return [item["item_id"] for item in good(service.client.get(path))["items"]]

        assert {item[:2] for item in ids("/v1/items/M1-red/related?relation=accessory&k=2")} == {"F1"}
        assert {item[:2] for item in ids("/v1/items/M1-red/related?kind=substitute&k=2")} == {"M2"}
        # A machine without a link gets what machines are linked to.
        assert {item[0] for item in ids("/v1/items/M2-red/related?kind=complement&k=2")} == {"F"}
        assert refused(service.client.get("/v1/items/M1-red/related?relation=spare"))["field"] == "relation"
        assert refused(service.client.get("/v1/items/nothing/related"), 404)["field"] == "item_id"

        def first(user: str) -> dict[str, Any]:
            body = {"user_id": user, "k": 3, "explain": True}
            found: dict[str, Any] = good(service.client.post("/v1/recommend", json=body))["items"][0]
            return found

        assert first("buyer")["item_id"].startswith("F1")
        assert "the shop's relations" in first("buyer")["reasons"]["sentence"]
        assert first("viewer")["item_id"].startswith("M2")
    # What changes live goes with what it went with.
    live = ServiceRuntime(store)
    live.refresh()
    live.items.put([{**ROWS[4], "title": "very red paper filter"}])
    live.items.delete(["F1-blue"])
    from serve.engine.related_items import related_items

    found = [
        live.engine.snapshot.item_id(one.item_index) for one in related_items(live.engine, "M1-red", 3, "accessory")
    ]
    assert found[0] == "F1-red"
    assert "F1-blue" not in found


def test_an_import_replaces_its_own_relations_only(store: Settings, tmp_path: Path) -> None:
    catalogue = Catalogue.current(store.store)
    into = store.store / FILE
    named = ("sku", "linked", "kind")
    import_links(
        write_links(tmp_path / "a.csv", [("M1", "F1", "accessory"), ("M1", "M2", "upsell")]),
        catalogue,
        into,
        named,
        "parent_sku",
    )
    import_links(write_links(tmp_path / "b.csv", [("M2", "F2", "accessory")]), catalogue, into, named, "parent_sku")
    found = read_relations(into).related
    assert set(found["accessory"]) == {"M2-red", "M2-blue"}
    assert set(found["upsell"]) == {"M1-red", "M1-blue"}
    import_links(write_links(tmp_path / "c.csv", [("M1-red", "F1-red", "")]), catalogue, into, ("sku", "linked", ""))
    assert read_relations(into).related["related"] == {"M1-red": ("F1-red",)}
    with pytest.raises(BadInput, match="no column 'other'"):
        import_links(tmp_path / "c.csv", catalogue, into, ("sku", "other", ""))
