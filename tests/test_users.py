"""From events to recommendations: importing events, training, building, requests over HTTP and the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from helpers.service import Service, good, served
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from embed.durable import replace_link
from serve import cli
from serve.cli.render.plots import draw_evaluation
from serve.core.errors import BadRequest, StoreUnavailable
from serve.core.settings import Settings
from serve.engine.query import Query
from serve.engine.recommend_engine import RecommendEngine
from serve.engine.user_context import load_user_context
from serve.jobs.build import build
from serve.jobs.export_candidates import write_candidates
from serve.jobs.import_events import REJECTS_FILE, import_events
from serve.jobs.lock import one_job_at_a_time
from serve.jobs.train import evaluate, train, train_scorer, tune
from serve.live.replica import open_engine
from serve.release.repository import open_current
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import open_event_log
from serve.storage.preferences import Preferences


@pytest.fixture
def service(copied: Settings) -> Any:
    with served(copied) as running:
        yield running


def recommended(service: Service, **body: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = good(service.client.post("/v1/recommend", json=body))["items"]
    return items


def sent(service: Service, *events: dict[str, Any]) -> list[dict[str, Any]]:
    taken: list[dict[str, Any]] = good(service.client.post("/v1/events", json={"events": list(events)}))["events"]
    return taken


def some_items(service: Service, count: int) -> list[str]:
    return [item["item_id"] for item in recommended(service, k=count)]


def test_a_release_holds_what_was_learned_and_says_so(trained: Settings) -> None:
    release = open_current(trained.store)
    facts = release.manifest.behaviour
    assert release.manifest.tower is not None
    assert facts.towers == release.manifest.tower.fingerprint == release.tower.space.fingerprint  # type: ignore[union-attr]
    assert facts.users > 300
    assert set(facts.score_model.weights) == {"tower", "covisitation", "popularity", "arrivals", "content"}
    assert release.behaviour.towers is not None
    assert release.behaviour.towers.facts["validation"]["ndcg10"] > 0


def test_training_again_on_the_same_makes_the_same(copied: Settings) -> None:
    before = open_current(copied.store).manifest.behaviour
    assert train(copied).fingerprint == before.towers
    assert not build(copied).published


def test_too_few_interactions_are_refused(built: Settings, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(built.store, store, symlinks=True)
    with pytest.raises(BadRequest, match="too little behaviour to learn from: 0 interactions"):
        train(Settings(store=store, image_root=built.store.parent))


def test_new_events_change_the_next_response(service: Service) -> None:
    assert good(service.client.get("/v1/users/somebody new"))["known"] is False
    before = recommended(service, user_id="somebody new", k=5)
    assert {source for item in before for source in item["retriever_scores"]} <= {"popularity", "arrivals"}
    first, second = before[0]["item_id"], before[1]["item_id"]
    event = {"user_id": "somebody new", "item_id": first, "type": "click", "event_id": "one"}
    assert sent(service, event, event | {"event_id": "two", "item_id": second, "type": "purchase"}, event) == [
        {"event_id": "one", "status": "stored", "code": "", "message": "", "field": ""},
        {"event_id": "two", "status": "stored", "code": "", "message": "", "field": ""},
        {"event_id": "one", "status": "duplicate", "code": "", "message": "", "field": ""},
    ]
    after = recommended(service, user_id="somebody new", k=70)
    assert not {first, second} & {item["item_id"] for item in after}
    assert "tower" in after[0]["retriever_scores"]
    told = good(service.client.get("/v1/users/somebody new"))
    assert (told["known"], told["events"], [event["event_id"] for event in told["history"]]) == (
        True,
        2,
        ["two", "one"],
    )


def test_an_event_counts_in_the_next_response_of_another_worker(service: Service, copied: Settings) -> None:
    with served(copied) as other:
        first = some_items(service, 1)[0]
        for place in range(5):
            item = recommended(other, user_id="wanderer", k=1)[0]["item_id"]
            sent(service, {"user_id": "wanderer", "item_id": item, "type": "click", "event_id": f"step {place}"})
            there, here = (
                {each["item_id"]: each["score"] for each in recommended(worker, user_id="wanderer", k=70)}
                for worker in (other, service)
            )
            assert item not in there
            assert there == pytest.approx(here, abs=2e-4)  # scores have four digits, and fade from call to call
        assert first not in there


def test_every_row_of_a_batch_has_its_own_status(service: Service) -> None:
    item = some_items(service, 1)[0]
    taken = sent(
        service,
        {"user_id": "u", "item_id": "not there yet", "type": "view", "event_id": "pending"},
        {"user_id": "u", "item_id": item, "type": "stare"},
        {"user_id": "u", "type": "view"},
        {"user_id": "u", "item_id": item, "type": "view", "timestamp": "2019-01-01T00:00:00+02:00"},
        {"user_id": "u", "item_id": item, "type": "view", "timestamp": 4e9},
    )
    assert [event["status"] for event in taken] == ["pending", "rejected", "rejected", "stored", "rejected"]
    assert [event["field"] for event in taken] == ["", "type", "item_id", "", "timestamp"]


def test_an_anonymous_session_is_answered_by_its_history_and_leaves_no_trace(
    service: Service, copied: Settings
) -> None:
    store = open_event_log(copied)
    before = store.count()
    items = some_items(service, 12)
    history = [{"item_id": items[4]}, {"item_id": items[9], "type": "cart"}]
    found = recommended(service, history=history, k=10)
    assert not {items[4], items[9]} & {item["item_id"] for item in found}
    assert [item["item_id"] for item in found] != [item["item_id"] for item in recommended(service, k=10)]
    assert store.count() == before
    refused = service.client.post("/v1/recommend", json={"history": [{"item_id": "x", "type": "rating"}]})
    assert refused.status_code == 422
    assert refused.json()["error"]["field"] == "history.0.value"


def test_filters_and_exclusions_hold_and_k_come_whenever_there_are_k(service: Service) -> None:
    everything = some_items(service, 1000)
    assert len(everything) == len(set(everything)) == 72
    category = recommended(service, k=1)[0]["category"]
    of_category = recommended(service, k=1000, filter={"category": category})
    assert {item["category"] for item in of_category} == {category}
    assert {item["item_id"] for item in of_category} == {
        item["item_id"] for item in recommended(service, k=1000) if item["category"] == category
    }
    left = recommended(service, k=1000, exclude=everything[:50])
    assert {item["item_id"] for item in left} == set(everything[50:])


def test_candidates_name_their_retrievers_and_keep_the_order(service: Service, copied: Settings) -> None:
    user = next(open_event_log(copied).users())
    found = good(service.client.post("/v1/candidates", json={"user_id": user, "k": 5000}))["items"]
    assert {item["item_id"] for item in found} == {
        item["item_id"] for item in recommended(service, user_id=user, k=1000)
    }
    assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)
    assert all(item["proposed_by"] for item in found[:10])
    assert all(set(item["proposed_by"]) <= set(item["retriever_scores"]) for item in found)


def test_reasons_add_up_to_the_score_and_name_interactions(service: Service) -> None:
    items = some_items(service, 3)
    history = [{"item_id": items[0]}, {"item_id": items[1], "type": "purchase"}]
    answer = good(service.client.post("/v1/recommend", json={"history": history, "k": 20, "explain": True}))
    assert answer["ranked_by"] == "scorer"
    for item in answer["items"]:
        of = item["reasons"]
        total = of["base"] + sum(of["parts"].values()) + sum(event["value"] for event in of["history"])
        assert total == pytest.approx(item["score"], abs=1e-3)
        assert {(event["item_id"], event["type"]) for event in of["history"]} <= {
            (items[0], "click"),
            (items[1], "purchase"),
        }
        assert of["sentence"].endswith(".")
        assert set(item["probabilities"]) <= {"click", "cart", "purchase", "rating"}
    plain = good(service.client.post("/v1/recommend", json={"history": history}))
    assert "reasons" not in plain["items"][0]


def test_a_search_is_personalized_and_explained(service: Service) -> None:
    items = some_items(service, 3)
    history = [{"item_id": items[0]}, {"item_id": items[1], "type": "purchase"}]
    words: dict[str, Any] = {"text": "red shoe", "k": 20}
    plain = good(service.client.post("/v1/search", json=words))
    for url, query in (("/v1/search", words), ("/v1/similar", {"item_ids": items[2:], "k": 20})):
        indifferent = good(service.client.post(url, json=query | {"history": history, "personal": 0}))
        for_all = good(service.client.post(url, json=query))
        assert [one["item_id"] for one in indifferent["items"]] == [one["item_id"] for one in for_all["items"]]
        suiting = good(service.client.post(url, json=query | {"history": history, "personal": 10, "explain": True}))
        assert (for_all["ranked_by"], suiting["ranked_by"]) == ("retrievers", "scorer")
        worth = [sum(one["probabilities"].values()) for one in suiting["items"]]
        assert sum(worth[:5]) > sum(sum(one["probabilities"].values()) for one in indifferent["items"][:5])
        for one in suiting["items"]:
            of = one["reasons"]
            total = of["base"] + sum(of["parts"].values()) + sum(event["value"] for event in of["history"])
            assert total == pytest.approx(one["score"], abs=2e-3)
            assert "query" in of["parts"]
    one_space = words | {"spaces": ["text"], "history": history, "personal": 0}
    assert good(service.client.post("/v1/search", json=one_space))["items"]
    form = {"text": "red shoe", "k": "20", "history": orjson.dumps(history).decode(), "personal": "0"}
    as_form = good(service.client.post("/v1/search", data=form, files={"fields": (None, "title")}))["items"]
    assert [one["item_id"] for one in as_form] == [one["item_id"] for one in plain["items"]]
    known = good(service.client.get(f"/v1/items/{items[0]}/similar", params={"user_id": "u00007", "explain": True}))
    assert all(one["reasons"]["sentence"] for one in known["items"])


def test_a_list_of_the_caller_is_ranked_for_a_user(service: Service) -> None:
    everything = recommended(service, user_id="u00007", k=1000)
    items = [item["item_id"] for item in everything[:6]]
    body = {"user_id": "u00007", "item_ids": [*items[::-1], "not there", items[0]], "explain": True}
    answer = good(service.client.post("/v1/rank", json=body))
    assert answer["unknown"] == ["not there"]
    assert sorted(item["item_id"] for item in answer["items"]) == sorted(items)
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    service.client.delete(f"/v1/items/{items[2]}")
    again = good(service.client.post("/v1/rank", json=body))
    assert again["unknown"] == [items[2], "not there"]
    assert len(again["items"]) == 5


def test_a_diverse_list_is_of_more_kinds(service: Service) -> None:
    history = [{"item_id": item, "type": "purchase"} for item in some_items(service, 2)]
    kinds = [
        len({item["category"] for item in recommended(service, history=history, k=10, diversity=diversity)})
        for diversity in (0, 0.9)
    ]
    assert kinds[0] < kinds[1]


def test_the_shops_rules_hold_from_the_next_answer_on(copied: Settings) -> None:
    with served(copied) as service:
        before = recommended(service, user_id="u00007", k=10)
        brand, last = before[0]["brand"], before[-1]["item_id"]
        file = copied.store / "rules.toml"
        file.write_text(
            f'[[rule]]\nname = "not them"\ndo = "hide"\nwhere = {{ brand = "{brand}" }}\n'
            f'[[rule]]\nname = "offer"\ndo = "pin"\nitems = ["{last}", "not there"]\n'
        )
        after = recommended(service, user_id="u00007", k=10)
        assert len(after) == 10
        assert brand not in {item["brand"] for item in after}
        if before[-1]["brand"] != brand:
            assert (after[0]["item_id"], after[0]["rules"]) == (last, ["offer"])
        file.write_text("[[rule]]\nname = 3")
        assert recommended(service, user_id="u00007", k=10) == after
        file.unlink()
        assert recommended(service, user_id="u00007", k=10) == before


def test_a_scorer_is_trained_after_the_catalogue_has_changed(copied: Settings, shop: Path, tmp_path: Path) -> None:
    feed = tmp_path / "catalog.csv"
    header, *rows = (shop / "catalog.csv").read_text().splitlines()
    feed.write_text("\n".join([header, *(row.replace("SNK-", "NEW-", 1) for row in rows if row[:3] == "SNK"), *rows]))
    build(copied, feed)
    assert train_scorer(copied).rows > 0
    manifest = build(copied).manifest
    assert manifest.behaviour.scorer is not None
    with served(copied) as service:
        answer = good(service.client.post("/v1/recommend", json={"user_id": "u00007", "k": 5}))
    assert answer["ranked_by"] == "scorer"


def test_the_margin_of_a_purchase_counts_where_it_is_known(copied: Settings) -> None:
    configured = copied.model_copy(update={"margin_attribute": "profit"})
    fields = ["title", "category", "price", "currency", "images"]
    with served(configured) as service:
        items = [{name: one[name] for name in ("item_id", *fields)} for one in recommended(service, k=3, fields=fields)]
        ids = [one["item_id"] for one in items]
        rows = [one | {"attributes": {"profit": [value]}} for one, value in zip(items, "13?", strict=True)]
        put = good(service.client.put("/v1/items", json={"items": rows}))
        assert [one["status"] for one in put["items"]] == ["updated"] * 3
    build(configured)
    engine = open_engine(configured)
    numbers = np.array([engine.item_index(item_id) for item_id in ids])
    assert engine.snapshot.attribute_numbers("profit", numbers)[:2].tolist() == [1, 3]
    with served(configured) as service:
        found = good(service.client.post("/v1/rank", json={"item_ids": ids, "explain": True}))["items"]
    for one in found:
        factor = {ids[0]: 0.5, ids[1]: 1.5}.get(one["item_id"], 1.0)
        worth = {"click": 1.0, "cart": 3.0, "purchase": 10.0 * factor, "rating": 1.0}
        expected = sum(worth[head] * probability for head, probability in one["probabilities"].items())
        assert one["score"] == pytest.approx(expected, abs=2e-3)
        assert one["reasons"]["base"] + sum(one["reasons"]["parts"].values()) == pytest.approx(expected, abs=2e-3)


def test_impressions_do_not_replace_interactions(service: Service) -> None:
    item = some_items(service, 1)[0]
    sent(service, {"user_id": "watcher", "item_id": item, "type": "purchase", "event_id": "bought"})
    shown = [{"user_id": "watcher", "item_id": item, "type": "impression", "event_id": f"s{n}"} for n in range(300)]
    sent(service, *shown)
    found = recommended(service, user_id="watcher", k=70)
    assert item not in [each["item_id"] for each in found]
    assert "covisitation" in found[0]["retriever_scores"] or "tower" in found[0]["retriever_scores"]


def test_without_a_scorer_retrievers_decide_and_explain(copied: Settings) -> None:
    shutil.rmtree(copied.store / "scorer")
    assert build(copied).published
    with served(copied) as service:
        answer = good(service.client.post("/v1/recommend", json={"user_id": "u00007", "k": 5, "explain": True}))
    assert answer["ranked_by"] == "retrievers"
    for item in answer["items"]:
        assert "probabilities" not in item
        assert sum(item["reasons"]["parts"].values()) == pytest.approx(item["score"], abs=1e-3)


def test_the_command_line_explains_and_personalizes(
    trained: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ["--user", "u00007", "--explain", "--store", str(trained.store)]
    for arguments in (
        ["recommend", "u00007", *asked[2:]],
        ["search", "red shoe", *asked],
        ["similar", "SNK-0001", *asked],
    ):
        monkeypatch.setattr("sys.argv", ["vetrina", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, capfd.readouterr().err
        assert " 1 Because " in capfd.readouterr().out


def test_a_scorer_of_another_versions_format_stays_out_and_is_trained_again(copied: Settings) -> None:
    link = copied.store / "scorer" / "current"
    older = link.resolve().rename(link.with_name("0123456789abcdef"))
    replace_link(link, older.name)
    told = older / "scorer.json"
    told.write_text(json.dumps(json.loads(told.read_text()) | {"format": 1}))
    assert build(copied).published
    assert open_current(copied.store).behaviour.scorer is None
    assert train_scorer(copied).rows > 0
    build(copied)
    assert open_current(copied.store).behaviour.scorer is not None


def test_a_scorer_of_other_towers_stays_out(copied: Settings) -> None:
    longer = copied.model_copy(update={"towers": copied.towers.model_copy(update={"seed": 1})})
    train(longer)
    assert build(longer).manifest.behaviour.scorer is None


def test_items_put_live_are_recommended_and_unavailable_ones_are_not(service: Service) -> None:
    liked = some_items(service, 1)[0]
    item = good(service.client.get(f"/v1/items/{liked}"))["item"]
    new = {name: item[name] for name in ("title", "description", "category", "brand", "price", "images")}
    put = service.client.put("/v1/items", json={"items": [new | {"item_id": "NEW"}]})
    assert good(put)["items"][0]["status"] == "created"
    history = [{"item_id": liked}]
    found = [each["item_id"] for each in recommended(service, history=history, k=10)]
    assert "NEW" in found  # as it looks and reads like what was clicked; nobody has ever had it
    near = good(service.client.get(f"/v1/items/{liked}/similar", params={"space": "tower", "k": 72}))["items"]
    assert "NEW" in [each["item_id"] for each in near]
    assert good(service.client.patch("/v1/items", json={"items": [{"item_id": "NEW", "available": False}]}))
    found = [each["item_id"] for each in recommended(service, history=history, k=1000)]
    assert "NEW" not in found
    assert len(found) == 71
    service.client.delete(f"/v1/items/{liked}")
    found = [each["item_id"] for each in recommended(service, k=1000)]
    assert liked not in found
    assert len(found) == 71


def test_a_setting_excludes_items(trained: Settings) -> None:
    store = open_event_log(trained)
    user = next(
        user
        for user in store.users()
        if store.user_items(user, ["purchase"]) and len(store.user_items(user, ["view"])) > 2
    )
    bought, seen = set(store.user_items(user, ["purchase"])), set(store.user_items(user, ["view", "click", "purchase"]))
    for excluded_types, deleted, there in (
        (["seen", "cart", "purchase"], seen, set[str]()),
        (["purchase"], bought, seen - bought),
        ([], set[str](), bought),
    ):
        configured = trained.model_copy(update={"exclude_interactions": excluded_types})
        known = load_user_context(store, configured, user)
        engine = open_engine(configured)
        found = {
            engine.snapshot.item_id(one.item_index)
            for one in engine.recommend(known.events, 1000, known.excluded_items)
        }
        assert not found & deleted
        assert there <= found


def test_a_retriever_can_be_turned_off(trained: Settings) -> None:
    engine = open_engine(trained.model_copy(update={"retriever_weights": {"tower": 0.0}}))
    user = next(open_event_log(trained).users())
    events = open_event_log(trained).recent(user, 50)
    assert all("tower" not in one.retriever_scores for one in engine.recommend(events, 10))
    misspelled = open_engine(trained.model_copy(update={"retriever_weights": {"towr": 1.0}}))
    with pytest.raises(BadRequest, match="retriever_weights names an unknown retriever 'towr'"):
        misspelled.recommend(events, 10)


def test_evaluation_measures_every_stage_beside_the_baselines(trained: Settings, tmp_path: Path) -> None:
    found = evaluate(trained, tmp_path)
    assert set(found.systems) == {
        *("tower", "covisitation", "popularity", "arrivals", "content", "fused", "reranked", "as served"),
        *("popularity (all time)", "recent popularity", "item-kNN", "EASE", "iALS", "BPR"),
    }
    for of in found.systems.values():
        assert of.users == found.split["test_users"] > 20
        for name, mean in of.means.items():
            low, high = of.intervals[name]
            assert 0 <= low <= mean <= high <= 1
        assert 0 <= of.means["recall10"] <= of.means["recall100"]
    # 72 items: everything that was not seen is among the first hundred.
    assert found.systems["fused"].means["recall100"] == 1
    draw_evaluation(found, tmp_path / "chart.png")
    assert Image.open(tmp_path / "chart.png").size[0] > 500


def test_evaluate_prints_its_report_readable_and_as_json(
    trained: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    measured = evaluate(trained, tmp_path / "work")
    monkeypatch.setattr("serve.jobs.train.evaluate", lambda *_: measured)
    out = tmp_path / "evaluation.json"
    printed = []
    for options in ((), ("--json",)):
        monkeypatch.setattr(
            "sys.argv", ["vetrina", "evaluate", "--out", str(out), "--store", str(trained.store), *options]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, None)
        printed.append(capfd.readouterr().out)
    report = json.loads(out.read_text())
    assert json.loads(printed[1]) == report
    assert report["heads"]["click"]["auc"] == measured.heads["click"].auc
    assert "reranked" in printed[0]


def test_evaluate_reads_events_while_it_holds_the_lock_of_jobs(
    copied: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReadUnderLock(Exception):
        pass

    def read(*_: Any) -> None:
        with pytest.raises(StoreUnavailable), one_job_at_a_time(copied.store):
            pass
        raise ReadUnderLock

    monkeypatch.setattr("serve.jobs.train.collect_interactions", read)
    with pytest.raises(ReadUnderLock):
        evaluate(copied, tmp_path)


def test_items_are_liked_in_the_tower_space_beside_others(trained: Settings) -> None:
    engine = open_engine(trained)
    liked = engine.snapshot.item_id(0)
    hits = engine.search(Query(k=5, like=[liked], spaces=["image", "tower"]))
    assert len(hits) == 5
    assert all(hit.retriever_scores.keys() == {"image", "tower"} for hit in hits)
    hits = engine.search(Query(k=5, text="sneaker", like=[liked], spaces=["keywords", "tower"]))
    assert len(hits) == 5
    assert all("tower" in hit.retriever_scores for hit in hits)
    assert len(engine.similar([liked], 5, ["image", "tower"])) == 5


def test_the_command_line_keeps_to_preferences(
    copied: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without exploration where the user does not allow it, and without blocked items."""
    explored = []
    recommend = RecommendEngine.recommend

    def spy(engine: RecommendEngine, *given: Any, **named: Any) -> Any:
        explored.append(named.get("explore"))
        found = recommend(engine, *given, **named)
        assert found
        assert not {engine._snapshot.item(hit.item_index).brand for hit in found} & {"Zainetto"}
        return found

    monkeypatch.setattr(RecommendEngine, "recommend", spy)
    events = open_event_log(copied)
    user = next(events.users())
    privacy = UserPrivacy(events.database, copied.store)
    rules = tmp_path / "rules.toml"
    rules.write_text("")
    for allowed in (True, False):
        privacy.set_preferences(user, Preferences(explore=allowed, blocked_brands=["Zainetto"]))
        for command in (("recommend", user), ("rules", "try", str(rules), user)):
            monkeypatch.setattr("sys.argv", ["vetrina", *command, "--store", str(copied.store), "--json"])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert ended.value.code in (0, None)
    assert explored == [None, False, False, False, False, False]


def test_tuning_goes_on_where_it_was(copied: Settings) -> None:
    again = copied.model_copy(update={"towers": copied.towers.model_copy(update={"epochs": 1})})
    assert tune(again, 1).trials == 1
    report = tune(again, 1)
    assert report.trials == 2
    assert report.ndcg10 > 0
    assert not list((copied.store / "towers" / "tuning").rglob("*.npy"))


def test_candidates_of_all_users_come_in_one_file(trained: Settings, tmp_path: Path) -> None:
    users = tmp_path / "users.txt"
    known = list(open_event_log(trained).users())
    users.write_text("\n".join([*known[:3], "nobody", ""]))
    report = write_candidates(trained, tmp_path / "out.parquet", users, 7, {})
    table = pq.read_table(tmp_path / "out.parquet")
    assert (report.users, report.rows, table.num_rows) == (4, 28, 28)
    assert table["user_id"].to_pylist() == [user for user in [*known[:3], "nobody"] for _ in range(7)]
    assert table["place"].to_pylist()[:7] == [1, 2, 3, 4, 5, 6, 7]
    assert table["tower"][21].as_py() is None
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_file_of_events_may_be_taken_in_twice_and_its_rejects_are_listed(tmp_path: Path) -> None:
    configured = Settings(store=tmp_path / "store")
    good_event = {"user_id": "u", "item_id": "i", "type": "click", "timestamp": 1_600_000_000}
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join([orjson.dumps(good_event), orjson.dumps(good_event | {"type": "stare"}), b"{"]))
    first, again = import_events(configured, file), import_events(configured, file)
    assert (first.read, first.stored, first.duplicates, first.rejected) == (3, 1, 0, 2)
    assert (again.read, again.stored, again.duplicates, again.rejected) == (3, 0, 1, 2)
    rejects = [json.loads(line) for line in (configured.store / REJECTS_FILE).read_text().splitlines()]
    assert [reject["line"] for reject in rejects] == [2, 3]


@given(st.lists(st.sampled_from(["a", "b", "c"]), max_size=6), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_any_history_gets_recommendations(trained: Settings, history: list[str], k: int) -> None:
    engine = open_engine_once(trained)
    known = load_user_context(
        open_event_log(trained), trained, None, [{"item_id": item, "type": "view"} for item in history]
    )
    assert len(engine.recommend(known.events, k, known.excluded_items)) == k


ENGINES: dict[Path, Any] = {}


def open_engine_once(configured: Settings) -> Any:
    return ENGINES.setdefault(configured.store, open_engine(configured))
