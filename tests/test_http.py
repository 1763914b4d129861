"""The HTTP service, over a real server on the loopback: answers, refusals, odd ids, and releases that change."""

import base64
import http.client
import json
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from helpers.service import ODD_IDS, Service, good, refused, served, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from serve.core.settings import Settings
from serve.http import app as http_app
from serve.jobs.build import build
from serve.release.repository import make_current, open_current, releases_folder

MAX_BODY = 1 << 20
BASE_FIELDS = {"item_id", "score", "retriever_scores", "sources"}  # the last of version 0.1


@pytest.fixture(scope="session")
def service(built: Settings) -> Iterator[Service]:
    with served(built.model_copy(update={"max_request_bytes": MAX_BODY})) as running:
        yield running


@pytest.fixture(scope="session")
def all_ids(built: Settings) -> list[str]:
    return [item.as_py() for item in open_current(built.store).catalogue.ids()]


@pytest.fixture(scope="session")
def photo(shop: Path) -> bytes:
    return sorted((shop / "images").iterdir())[0].read_bytes()


def test_words_photo_and_examples_find_items(service: Service, all_ids: list[str], photo: bytes, shop: Path) -> None:
    own = sorted((shop / "images").iterdir())[0].stem.removesuffix("-2")
    body = good(service.search(text="red striped sneaker", k=3))
    assert set(body) == {"request_id", "release", "took_ms", "ranked_by", "items", "understood", "facets"}
    assert len(body["items"]) == 3
    assert set(body["items"][0]) == {
        *BASE_FIELDS,
        *("title", "category", "brand", "price", "currency", "image"),
    }
    assert set(body["items"][0]["retriever_scores"]) == {"image", "text", "keywords"}
    assert [item["score"] for item in body["items"]] == sorted((item["score"] for item in body["items"]), reverse=True)
    by_photo = service.ids(image=base64.b64encode(photo).decode())
    assert by_photo[0] == own
    form = service.client.post("/v1/search", files={"image": ("photo.jpg", photo)})
    assert [item["item_id"] for item in good(form)["items"]] == by_photo
    liked, unliked = all_ids[0], all_ids[1]
    alike = service.ids(like=[liked], unlike=[unliked], k=72)
    assert sorted([*alike, liked, unliked]) == sorted(all_ids)
    fused = good(service.search(text="red", image=base64.b64encode(photo).decode(), like=[liked]))
    assert {"image", "text"} <= set(fused["items"][0]["retriever_scores"]) <= {"image", "text", "keywords"}


def test_each_option_counts(service: Service, all_ids: list[str], photo: bytes) -> None:
    encoded = base64.encodebytes(photo).decode()  # with line breaks, as base64(1) writes it
    words = service.ids(text="blue mug")
    assert (
        service.ids(text="blue mug", like=[all_ids[0]], weights={"like": 0}, spaces=["text"])
        == [item for item in service.ids(text="blue mug", k=11, spaces=["text"]) if item != all_ids[0]][:10]
    )
    assert service.ids(text="blue mug", exclude=words[:3], k=7) == words[3:]
    assert service.ids(text="blue mug", exclude=all_ids) == []
    assert service.ids(text="blue mug", exclude=all_ids[1:]) == [all_ids[0]]
    assert len(service.ids(text="blue mug", k=1000)) == 72
    only = good(service.search(image=encoded, spaces=["image"], fields=["price", "attributes"], k=1))["items"][0]
    assert set(only) == {*BASE_FIELDS, "price", "attributes"}
    assert only["attributes"]["generated"] == ["yes"]
    assert set(good(service.search(text="mug", fields=[], k=1))["items"][0]) == BASE_FIELDS
    far = {"like": 1, "unlike": 2}
    assert service.ids(like=[all_ids[0]], unlike=[all_ids[5]], weights=far) != service.ids(like=[all_ids[0]])


def test_a_form_takes_what_json_takes(service: Service, all_ids: list[str], photo: bytes) -> None:
    data: dict[str, Any] = {
        "text": "blue",
        "k": "4",
        "exclude": all_ids[:30],
        "like": [all_ids[40], all_ids[50]],
        "fields": ["title"],
        "weights": '{"text": 2}',
    }
    form = good(service.client.post("/v1/search", data=data, files={"image": photo}))["items"]
    body = {**data, "k": 4, "weights": {"text": 2}, "image": base64.b64encode(photo).decode()}
    assert form == good(service.search(**body))["items"]
    for name, value in (("k", "many"), ("k", "0"), ("k", "5.5"), ("k", "²"), ("k", "9" * 5000), ("weights", "{")):
        assert (
            refused(service.client.post("/v1/search", data={"text": "x", name: value}, files={"image": photo}))["field"]
            == name
        ), value
    two = [("image", ("a.jpg", photo)), ("image", ("b.jpg", photo))]
    assert refused(service.client.post("/v1/search", files=two))["field"] == "image"
    assert refused(service.client.post("/v1/search", files={"text": ("a.txt", b"shoe")}))["field"] == "text"
    assert refused(service.client.post("/v1/search", files={"photo": photo}))["field"] == "photo"
    assert refused(service.client.post("/v1/search", data={"image": "x"}, files={"f": b""}))["field"] == "image"
    broken = {"content-type": "multipart/form-data"}
    assert refused(service.client.post("/v1/search", content=b"x", headers=broken), 400)["field"] == "body"


def test_neighbours_of_one_and_of_several(service: Service, all_ids: list[str]) -> None:
    one = good(service.client.get(f"/v1/items/{all_ids[3]}/similar", params={"k": 5}))["items"]
    assert one == good(service.client.post("/v1/similar", json={"item_ids": [all_ids[3]], "k": 5}))["items"]
    assert all_ids[3] not in {item["item_id"] for item in one}
    assert set(one[0]["retriever_scores"]) == {"image", "text"}
    several = good(service.client.post("/v1/similar", json={"item_ids": all_ids[:3], "space": "image", "k": 100}))
    assert len(several["items"]) == 69
    params = {"fields": ["title", "brand"], "space": "text"}
    narrow = good(service.client.get(f"/v1/items/{all_ids[3]}/similar", params=params))["items"]
    assert set(narrow[0]) == {*BASE_FIELDS, "title", "brand"}
    item = good(service.client.get(f"/v1/items/{all_ids[3]}"))["item"]
    assert item["item_id"] == all_ids[3]
    assert item["image"] == item["images"][0]
    listed = good(service.client.get("/v1/releases"))
    assert [release["current"] for release in listed["releases"]] == [True]
    assert good_status(service, "/healthz") == {"status": "ok"}
    assert good_status(service, "/readyz") == {"status": "ready", "release": listed["release"]}


def good_status(service: Service, path: str) -> Any:
    response = service.client.get(path)
    assert response.status_code == 200
    return response.json()


def test_the_image_shown_is_the_one_that_matched(service: Service, built: Settings, shop: Path) -> None:
    release = open_current(built.store)
    item = next(item for batch in release.catalogue.batches() for item in batch if len(item.images) > 1)
    for reference in item.images:
        encoded = base64.b64encode((shop / reference).read_bytes()).decode()
        for extra in ({}, {"text": item.title}):  # by itself, and fused
            best = good(service.search(image=encoded, k=1, **extra))["items"][0]
            assert best["item_id"] == item.item_id
            assert extra or best["image"] == reference
            assert best["retriever_scores"]["image"] > (0.8 if extra else 0.99)


def test_equal_queries_give_equal_answers_also_at_once(service: Service, all_ids: list[str], photo: bytes) -> None:
    encoded = base64.b64encode(photo).decode()
    queries: list[dict[str, Any]] = [
        *({"text": words, "k": k} for words, k in (("red shoe", 5), ("mug", 72), ("warm", 1))),
        *({"like": [item], "k": 9} for item in all_ids[::20]),
        {"image": encoded},
        {"image": encoded, "text": "green", "unlike": [all_ids[2]]},
    ]
    answers = [good(service.search(**query))["items"] for query in queries]
    order = queries * 4
    random.Random(1).shuffle(order)
    with ThreadPoolExecutor(8) as pool:
        for query, response in zip(order, pool.map(lambda query: service.search(**query), order), strict=True):
            assert good(response)["items"] == answers[queries.index(query)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        *(({"text": "x", "k": k}, "k") for k in (0, -3, 1_000_000, 1e6, "5", True, None, 5.5, [5])),
        ({"text": ""}, "text"),
        ({"text": "   \u200b"}, "text"),
        ({"text": "x" * 2001}, "text"),
        ({"text": 5}, "text"),
        ({}, "text"),
        ({"unlike": ["a"]}, "text"),
        ({"query": "shoe"}, "query"),
        ({"text": "x", "body": 1}, "body"),
        ({"text": "x", "limit": 5}, "limit"),
        ({"text": "x", "weights": {"words": 1}}, "weights.words"),
        ({"text": "x", "weights": {"text": -1}}, "weights.text"),
        ({"text": "x", "weights": {"text": 0}}, "weights"),
        ({"text": "x", "fields": ["cost"]}, "fields.0"),
        ({"text": "x", "spaces": ["tower"]}, "spaces"),
        ({"image": "!!!"}, "image"),
        ({"image": "abc"}, "image"),
        ({"image": "data:image/jpeg;base64,/9j/"}, "image"),
        ({"like": [""]}, "like.0"),
        ({"like": ["x"] * 101}, "like"),
        ({"like": "SNK"}, "like"),
    ],
)
def test_a_mistake_is_refused_with_its_field(service: Service, body: dict[str, Any], field: str) -> None:
    assert refused(service.search(**body))["field"] == field


def test_what_is_no_photo_is_refused_with_the_reason(service: Service, photo: bytes) -> None:
    bomb = BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    for data, code in (
        (b"", "empty"),
        (photo[: len(photo) // 2], "truncated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>", "unsupported_format"),
        (b"<html>403 Forbidden</html>", "not_an_image"),
        (b"\x80\x04K\x01.", "not_an_image"),
        (bomb.getvalue(), "too_many_pixels"),
    ):
        by_json = refused(service.search(image=base64.b64encode(data).decode()))
        by_form = refused(service.client.post("/v1/search", files={"image": ("a.jpg", data)}))
        assert by_json == by_form
        assert (by_json["field"], by_json["code"]) == ("image", code), data[:20]


def test_missing_things_and_wrong_ways_are_named(service: Service, all_ids: list[str]) -> None:
    client = service.client
    for response, field in (
        (client.get("/v1/items/nope"), "item_id"),
        (client.get("/v1/items/nope/similar"), "item_id"),
        (client.post("/v1/similar", json={"item_ids": [all_ids[0], "nope"]}), "item_ids"),
        (service.search(like=["nope"]), "like"),
        (service.search(like=[all_ids[0]], unlike=["nope"]), "unlike"),
    ):
        error = refused(response, 404)
        assert (error["code"], error["field"]) == ("unknown_item", field)
        assert "'nope'" in error["message"]
    for path in ("/nope", "/v1", "/v1/search/", "/v1/items/", "/v1/items/a/b", "/%", "/v1/items/%ff%fe"):
        refused(client.get(path), 404)
    for method, path in (
        ("GET", "/v1/search"),
        ("PUT", "/v1/similar"),
        ("POST", "/healthz"),
        ("DELETE", "/v1/search"),
    ):
        response = client.request(method, path)
        assert refused(response, 405)["code"] == "method_not_allowed"
        assert response.headers["allow"]
    own = f"/v1/items/{all_ids[0]}/similar"
    for params, field in (
        ({"k": "0"}, "k"),
        ({"k": "x"}, "k"),
        ({"space": "tower"}, "space"),
        ({"fields": "x"}, "fields.0"),
    ):
        assert refused(client.get(own, params=params))["field"] == field
    assert refused(client.post("/v1/similar", json={"item_ids": []}))["field"] == "item_ids"
    assert refused(client.post("/v1/similar", json={"item_ids": ["a"], "space": "x"}), 404)["field"] == "item_ids"
    assert refused(client.post("/v1/similar", json={"item_ids": all_ids[:1], "space": "x"}))["field"] == "space"


@pytest.mark.parametrize("path", ["/v1/search", "/v1/similar"])
def test_a_body_that_cannot_be_read_is_refused(service: Service, path: str) -> None:
    headers = {"content-type": "application/json"}
    for content in (
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"text": NaN}',
        b"[" * 5000,
        b'{"k": ' + b"9" * 5000,
    ):
        response = service.client.post(path, content=content, headers=headers)
        assert response.status_code in {400, 422}, content[:20]
        assert refused(response, response.status_code)["field"] in {"body", "text", "item_ids"}
    # Half a surrogate pair, as a name and as a value.
    for content in (b'{"\\ud800": 1, "item_ids": ["x"], "text": "x"}', b'{"item_ids": ["\\ud800"], "text": "\\ud800"}'):
        refused(service.client.post(path, content=content, headers=headers))


@pytest.mark.parametrize("path", ["/v1/search", "/v1/similar"])
def test_a_body_over_the_limit_is_refused(service: Service, path: str) -> None:
    def chunks() -> Iterator[bytes]:  # no content-length
        yield b'{"text": "'
        for _ in range(40):
            yield b"x" * (MAX_BODY // 20)
        yield b'"}'

    headers = {"content-type": "application/json"}
    for content in (b'{"text": "' + b"x" * MAX_BODY + b'"}', chunks()):
        error = refused(service.client.post(path, content=content, headers=headers), 413)
        assert error["field"] == "body"
        assert str(MAX_BODY) in error["message"]
    refused(service.client.post("/v1/search", files={"image": b"x" * MAX_BODY}), 413)
    assert service.ids(text="shoe")


def test_ten_thousand_excluded_items_are_no_trouble(service: Service, all_ids: list[str]) -> None:
    excluded = [*map(str, range(9_990)), *all_ids[:10]]
    found = service.ids(text="red shoe", k=10, exclude=excluded)
    assert len(found) == 10
    assert not {*found} & {*excluded}
    assert refused(service.search(text="red shoe", exclude=["x"] * 20_001))["field"] == "exclude"


def test_any_id_can_be_asked_for(tmp_path: Path) -> None:
    feed = tmp_path / "feed.jsonl"
    lines = [{"item_id": item_id, "title": f"thing {number}"} for number, item_id in enumerate(ODD_IDS)]
    feed.write_text("".join(json.dumps(line) + "\n" for line in lines))
    configured = Settings(store=tmp_path / "store")
    assert build(configured, feed).manifest.items == len(ODD_IDS)
    with served(configured) as service:
        host = http.client.HTTPConnection(service.client.base_url.host, service.client.base_url.port or 80)

        def get(path: str) -> Any:  # as written: httpx tidies paths
            host.request("GET", path)
            response = host.getresponse()
            body = response.read()
            assert response.status == 200, (path, body)
            return json.loads(body)

        for number, item_id in enumerate(ODD_IDS):
            encoded = quote(item_id, safe="").replace(".", "%2E")
            item = get(f"/v1/items/{encoded}")["item"]
            assert (item["item_id"], item["title"]) == (item_id, f"thing {number}")
            similar = {item["item_id"] for item in get(f"/v1/items/{encoded}/similar?k=100")["items"]}
            assert similar == {*ODD_IDS} - {item_id}
            several = good(service.client.post("/v1/similar", json={"item_ids": [item_id], "k": 100}))["items"]
            assert {item["item_id"] for item in several} == similar
            assert {*service.ids(text="thing", exclude=[item_id], k=100)} == similar
            assert {*service.ids(like=[item_id], k=100)} == similar
        host.close()


def test_a_new_release_takes_over_without_a_failed_request(tmp_path: Path) -> None:
    feed = tmp_path / "feed.csv"
    configured = Settings(store=tmp_path / "store")
    configured.store.mkdir()
    with served(configured) as service:
        for path in ("/readyz", "/v1/releases", "/v1/items/1"):
            assert "vetrina build" in refused(service.client.get(path), 503)["message"]
        refused(service.search(text="shoe"), 503)
        assert refused(service.search(text="shoe", k=0), 422)["field"] == "k"
        assert good_status(service, "/healthz") == {"status": "ok"}
        feed.write_text("item_id,title\n1,red shoe\n2,blue hat\n")
        first = build(configured, feed).manifest.release
        until(lambda: service.client.get("/readyz").status_code == 200)
        seen = []

        def swapped(release: str) -> bool:
            body = good(service.search(text="shoe"))
            seen.append((body["release"], {item["item_id"] for item in body["items"]}))
            assert good_status(service, "/readyz")["status"] == "ready"
            return bool(body["release"] == release)

        feed.write_text("item_id,title\n1,red shoe\n2,blue hat\n3,green shoe\n")
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(build, configured, feed)
            while not second.done():
                swapped(first)
        fresh = second.result().manifest.release
        until(lambda: swapped(fresh))
        assert {release for release, _ in seen} == {first, fresh}
        assert all(ids == ({"1", "2"} if release == first else {"1", "2", "3"}) for release, ids in seen)
        # A broken one does not take over.
        newer = releases_folder(configured.store) / "20990101T000000000-00000000"
        shutil.copytree(releases_folder(configured.store) / fresh, newer)
        make_current(configured.store, newer.name)
        until(lambda: service.app.state.live.release_watcher.refused == newer.name)
        assert swapped(fresh)
        assert good_status(service, "/healthz") == {"status": "ok"}
        # And the next sound one does.
        make_current(configured.store, first)
        until(lambda: swapped(first))


def test_an_internal_error_is_a_500_with_a_reference(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("secret of the house")

    monkeypatch.setattr(service.app.state.live.engine, "search", bug)
    monkeypatch.setattr(http_app._log, "disabled", True)
    response = service.search(text="shoe")
    error = refused(response, 500)
    assert error["code"] == "internal"
    assert error["message"] == f"internal error, reference {response.headers['x-request-id']}"
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text
    monkeypatch.undo()
    assert service.ids(text="shoe")


def test_head_is_allowed_wherever_get_is(service: Service, all_ids: list[str]) -> None:
    paths = ("/", "/docs", "/healthz", "/readyz", "/metrics", "/v1/me", "/v1/suggest?q=re", f"/v1/items/{all_ids[0]}")
    for path in paths:
        got, head = service.client.get(path), service.client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
        assert head.headers["x-request-id"]
    assert service.client.head("/v1/items/nope").status_code == 404
    assert service.client.head("/v1/search").status_code == 405


def test_browsers_may_send_the_headers_that_are_set(built: Settings) -> None:
    asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    for headers, allowed in (
        ({}, ("traceparent", "tracestate", "sentry-trace", "baggage", "authorization", "content-type")),
        ({"cors_headers": ["x-shop"]}, ("x-shop",)),
    ):
        configured = built.model_copy(update={"cors_origins": ["https://shop.example"], **headers})
        with served(configured) as service:
            for name in ("traceparent", "x-shop", *allowed):
                preflight = {**asked, "access-control-request-headers": name}
                response = service.client.options("/v1/search", headers=preflight)
                assert (response.status_code == 200) == (name in allowed), name


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["SNK-0001", "image", "text", "title", "aGVsbG8="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["text", "image", "like", "unlike", "weights", "exclude", "spaces", "k", "fields", "item_ids", "space", "nope"]
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(body=st.dictionaries(NAMES, VALUES, max_size=4), path=st.sampled_from(["/v1/search", "/v1/similar"]))
def test_no_body_makes_a_bug(service: Service, body: dict[str, Any], path: str) -> None:
    response = service.client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert response.status_code == 200 or refused(response, response.status_code)
    assert response.status_code < 500


def test_scores_stay_finite_where_all_items_are_alike(tmp_path: Path) -> None:
    feed = tmp_path / "feed.csv"
    Image.fromarray(np.full((32, 32, 3), 200, np.uint8)).save(tmp_path / "a.png")
    feed.write_text("item_id,title,image\n" + "".join(f"{number},same,a.png\n" for number in range(5)))
    configured = Settings(store=tmp_path / "store")
    build(configured, feed)
    with served(configured) as service:
        assert service.ids(text="same", like=["3"]) == ["0", "1", "2", "4"]
        items = good(service.client.get("/v1/items/3/similar"))["items"]
        assert [item["item_id"] for item in items] == ["0", "1", "2", "4"]
        assert all(np.isfinite(item["score"]) for item in items)
