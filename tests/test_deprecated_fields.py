"""Fields of version 0.1: requests may have them, responses still have them beside the new ones."""

import shutil
import time
from collections.abc import Iterator

import pytest
from helpers.service import Service, good, refused, served

from serve.core.settings import Settings
from serve.http.deprecated import add_deprecated_fields

USER = "u00001"


@pytest.fixture(scope="module")
def service(trained: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = tmp_path_factory.mktemp("deprecated") / "store"
    shutil.copytree(trained.store, store, symlinks=True)
    with served(trained.model_copy(update={"store": store})) as running:
        yield running


def test_requests_may_have_old_names(service: Service) -> None:
    search = {"text": "red shoe", "user_id": USER}
    for strength in (0, 10):
        old, new = (good(service.search(**search, **{name: strength})) for name in ("personal", "personalization"))
        assert [item["item_id"] for item in old["items"]] == [item["item_id"] for item in new["items"]]
    item_id = old["items"][0]["item_id"]
    for name in ("personal", "personalization"):
        params = {"user_id": USER, name: "2"}
        assert good(service.client.get(f"/v1/items/{item_id}/similar", params=params))["items"]
        body = {"item_ids": [item_id], "user_id": USER, name: 2}
        assert good(service.client.post("/v1/similar", json=body))["items"]
        assert refused(service.search(text="shoe", **{name: 11}))["field"] == name


def test_items_have_old_names_too(service: Service) -> None:
    (item,) = good(service.search(text="red shoe", k=1))["items"]
    scores = item["retriever_scores"]
    assert set(scores) == {"image", "text", "keywords"}
    assert item["sources"] == {"image": scores["image"], "text": scores["text"], "words": scores["keywords"]}
    assert "chances" not in item
    for path in ("recommend", "candidates"):
        (item,) = good(service.client.post(f"/v1/{path}", json={"user_id": USER, "k": 1}))["items"]
        assert item["sources"] == item["retriever_scores"]
        assert item.get("chances") == item.get("probabilities")
    (item,) = good(service.client.get(f"/v1/items/{item['item_id']}/similar", params={"k": 1}))["items"]
    assert item["sources"] == item["retriever_scores"]


def test_other_responses_have_old_names_too(service: Service) -> None:
    item_id = service.ids(text="shoe", k=1)[0]
    audience = good(service.client.post("/v1/audience", json={"item_id": item_id, "size": 3}))
    assert audience["shoppers"] == audience["users"] > 0
    assert audience["had"] == audience["already_interacted"]
    assert all(member["chance"] == member["probability"] for member in audience["members"])
    activity = good(service.client.get("/v1/activity"))
    assert activity["answers_dropped"] == activity["impressions_dropped"]
    event = {"user_id": "someone", "item_id": item_id, "type": "click", "timestamp": time.time()}
    pending = good(service.client.post("/v1/events", json={"events": [event, event | {"item_id": "not yet"}]}))
    assert [each["status"] for each in pending["events"]] == ["stored", "pending"]
    removed = good(service.client.delete("/v1/users/someone"))["removed"]
    assert (removed["events"], removed["answers"]) == (2, removed["impressions"])
    releases = good(service.client.get("/v1/releases"))
    assert releases["changes"]["gone"] == releases["changes"]["deleted"]
    body = {"releases": [releases["release"]] * 2, "search": {"text": "shoe", "k": 1}}
    compared = good(service.client.post("/v1/compare", json=body))
    assert compared["answers"] == compared["responses"]
    assert service.client.get("/v1/me").json()["keys"] is False


def test_old_names_cost_little() -> None:
    def similar() -> dict[str, object]:
        scores = {"image": 0.5, "text": 0.5}
        return {"items": [{"item_id": str(row), "score": 0.5, "retriever_scores": scores} for row in range(10)]}

    contents = [similar() for _ in range(1000)]
    started = time.perf_counter()
    for content in contents:
        add_deprecated_fields(content)
    assert time.perf_counter() - started < 0.2  # 0.2 ms a response, measured 0.003
