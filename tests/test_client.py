"""The client: both kinds against the real service, and against small servers that refuse, stall and hang up."""

import asyncio
import base64
import copy
import inspect
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson
import pytest
from helpers.service import ODD_IDS, Service, served

from serve.client import (
    AsyncClient,
    Client,
    ClientError,
    NotAllowed,
    NotFound,
    Refused,
    TooMany,
    Unavailable,
    Unreachable,
    Unreadable,
    clients,
)
from serve.core.settings import Settings
from serve.release.repository import open_current
from serve.schemas.campaigns import AudienceRequest, CopyRequest
from serve.schemas.recommend import CandidatesRequest, RankRequest, RecommendRequest
from serve.schemas.search import RelatedQuery, SearchRequest, SimilarRequest, SuggestQuery
from serve.security.api_keys import create_key
from serve.storage.preferences import Preferences

ROOT = Path(__file__).parents[1]
KEY = "vtr_0123456789"
IGNORED_FIELDS = {"request_id", "took_ms", "sources", "chances", "chance", "had", "shoppers"}
REQUESTS = {
    "search": SearchRequest,
    "similar": SimilarRequest,
    "related": RelatedQuery,
    "suggest": SuggestQuery,
    "recommend": RecommendRequest,
    "candidates": CandidatesRequest,
    "rank": RankRequest,
    "audience": AudienceRequest,
    "copy": CopyRequest,
    "set_preferences": Preferences,
}

Ask = Callable[..., Any]


def waiting(url: str, name: str, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    with Client(url, **options or {}) as shop:
        return getattr(shop, name)(*args, **kwargs)


def awaited(url: str, name: str, *args: Any, options: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, **options or {}) as shop:
            return await getattr(shop, name)(*args, **kwargs)

    return asyncio.run(ask())


@pytest.fixture(params=[waiting, awaited])
def ask(request: pytest.FixtureRequest) -> Ask:
    """`ask(url, "search", text="mug")`: an operation through one kind of client, the `options` are the client's."""
    found: Ask = request.param
    return found


@pytest.fixture(scope="module")
def service(trained: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    store = tmp_path_factory.mktemp("client") / "store"
    shutil.copytree(trained.store, store, symlinks=True)
    with served(trained.model_copy(update={"store": store})) as running:
        yield running


@pytest.fixture(scope="module")
def url(service: Service) -> str:
    return str(service.client.base_url)


@pytest.fixture(scope="module")
def ids(trained: Settings) -> list[str]:
    return [item.as_py() for item in open_current(trained.store).catalogue.ids()]


@pytest.fixture(scope="module")
def picture(shop: Path) -> Path:
    return sorted((shop / "images").iterdir())[0]


def content(response: Any) -> dict[str, Any]:
    """The values of a response by path, without those that differ each time and the fields of version 0.1."""
    found = response if isinstance(response, dict) else response.model_dump(mode="json", exclude_unset=True)
    return {path: value for path, value in leaves(found) if not IGNORED_FIELDS & {*path.split(".")}}


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that has no parts, and where it is; empty ones as text."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not parts:
        yield place, str(value) if isinstance(value, dict | list) else value
    for name, part in parts:
        yield from leaves(part, f"{place}.{name}")


def test_each_operation_takes_what_its_request_has() -> None:
    with Client("http://127.0.0.1") as shop:
        for name, request in REQUESTS.items():
            taken = {parameter.rstrip("_") for parameter in inspect.signature(getattr(shop, name)).parameters}
            in_path = {"related": {"item_id"}, "copy": {"item_id"}, "set_preferences": {"user_id"}}.get(name, set())
            assert taken - in_path == {field.alias or of for of, field in request.model_fields.items()}, name


def test_questions_are_answered_as_over_http(
    service: Service, url: str, ask: Ask, ids: list[str], picture: Path
) -> None:
    photo = base64.b64encode(picture.read_bytes()).decode()
    user: dict[str, Any] = {"user_id": "u00001", "history": [{"item_id": ids[3], "type": "cart"}]}
    narrow: dict[str, Any] = {"filter": {"price": {"gte": 5}}, "fields": ["title", "price"]}
    everything: dict[str, Any] = {
        **{"text": "red shoe over $5", "like": [ids[0]], "unlike": [ids[1]], "weights": {"like": 2.0}},
        **{"exclude": ids[4:9], "spaces": ["image", "text"], "understand": False, "facets": ["category"]},
        **{**narrow, **user, "personalization": 2.0, "explain": True, "k": 4},
    }
    across = {**user, "filter": {"available": True}, "exclude": ids[:2], "to": [], "k": 6}
    posted: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("search", "search", everything | {"image": picture}, everything | {"image": photo}),
        ("search", "search", {"image": picture.read_bytes()}, {"image": photo}),
        ("similar", "similar", {"item_ids": ids[0], "k": 3}, {"item_ids": ids[:1], "k": 3}),
        ("similar", "similar", {"item_ids": ids[:2], "space": "image", **user}, {}),
        ("recommend", "recommend", {**across, "explore": False, "diversity": 0.2}, {}),
        ("candidates", "candidates", across | {"from_": []}, across | {"from": []}),
        ("rank", "rank", {"item_ids": [*ids[:5], "nope"], **user, "explain": True}, {}),
        ("audience", "audience", {"image": picture, "size": 5}, {"image": photo, "size": 5}),
        ("copy", f"items/{ids[0]}/copy", {"item_id": ids[0], "style": "ad"}, {"style": "ad"}),
    ]
    # They are nearly equal, as what was done a moment longer ago counts a little less.
    for name, path, given, body in posted:
        response = service.client.post(f"/v1/{path}", json=body or given)
        assert response.status_code == 200, (name, response.text)
        assert content(ask(url, name, **given)) == pytest.approx(content(response.json()), abs=1e-3), name
    asked: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
        ("item", f"items/{ids[0]}", {"item_id": ids[0]}, {}),
        ("suggest", "suggest", {"q": "re", "k": 3}, {"q": "re", "k": 3}),
        ("user", "users/u00001", {"user_id": "u00001"}, {}),
        ("releases", "releases", {}, {}),
    ]
    for name, path, given, params in asked:
        response = service.client.get(f"/v1/{path}", params=params)
        assert response.status_code == 200, (name, response.text)
        assert content(ask(url, name, **given)) == pytest.approx(content(response.json()), abs=1e-3), name


def test_changes_are_made(service: Service, url: str, ask: Ask, ids: list[str]) -> None:
    odd = f"ключ/{ask.__name__}? ..%"
    item = {"item_id": odd, "title": "Dotted mug", "price": "8.50 EUR"}
    assert [row.status for row in ask(url, "put_items", [item]).items] == ["created"]
    patched = ask(url, "patch_items", [{"item_id": odd, "price": 7.0}, {"item_id": "nope", "price": 1}])
    assert [row.status for row in patched.items] == ["updated", "unknown"]
    assert ask(url, "item", odd).item["price"] == 7.0
    user = f"someone/{odd}"
    clicks = [{"user_id": user, "item_id": odd, "type": "click"}, {"user_id": user, "item_id": "", "type": "click"}]
    taken = ask(url, "send_events", clicks)
    assert [event.status for event in taken.events] == ["stored", "rejected"]
    known = ask(url, "user", user)
    assert (known.events, known.history[0]["event_id"]) == (1, taken.events[0].event_id)
    assert ask(url, "set_preferences", user, blocked_brands=["Zainetto"]).preferences.blocked_brands == ["Zainetto"]
    assert ask(url, "user", user).preferences.blocked_brands == ["Zainetto"]
    assert ask(url, "erase_user", user).removed.events == 1
    assert not ask(url, "user", user).known
    assert [row.status for row in ask(url, "delete_items", [odd]).items] == ["deleted"]
    with pytest.raises(NotFound):
        ask(url, "item", odd)
    release = ask(url, "ready")["release"]
    assert ask(url, "activate", release).release == release


def test_an_id_is_one_part_of_a_path(ask: Ask) -> None:
    found = http_answer(200, b'{"request_id": "r", "release": "r", "took_ms": 1, "item": {}}')
    for item_id in ODD_IDS:
        with scripted(found) as (url, sent):
            ask(f"{url}/behind", "item", item_id)
        *before, part = sent[0].split(b" ")[1].decode().split("/")
        assert before == ["", "behind", "v1", "items"]
        assert unquote(part) == item_id
        assert not {"?", "#", "."} & {*part}


def test_what_goes_with_an_item_is_asked_for_in_the_query(ask: Ask) -> None:
    found = {"request_id": "r", "release": "r", "took_ms": 1, "ranked_by": "retrievers", "items": []}
    with scripted(http_answer(200, orjson.dumps(found))) as (url, sent):
        ask(url, "related", "a", kind="complement", filter={"price": {"lte": 5}}, k=3, fields=["title", "price"])
    target = urlsplit(sent[0].split(b" ")[1].decode())
    query = {name: values if name == "fields" else values[0] for name, values in parse_qs(target.query).items()}
    wanted = RelatedQuery.model_validate(query)
    assert target.path == "/v1/items/a/related"
    assert (wanted.kind, wanted.filter, wanted.k) == ("complement", {"price": {"lte": 5}}, 3)
    assert wanted.fields == ["title", "price"]
    assert wanted.relation is None


def test_what_is_refused_is_told(url: str, ask: Ask) -> None:
    with pytest.raises(NotFound) as missing:
        ask(url, "similar", "nope")
    assert (missing.value.status, missing.value.code, missing.value.field) == (404, "unknown_item", "item_ids")
    assert "'nope'" in str(missing.value)
    with pytest.raises(Refused) as wrong:
        ask(url, "search", text="x", k=0)
    assert (wrong.value.status, wrong.value.code, wrong.value.field) == (422, "invalid", "k")
    again = copy.copy(wrong.value)  # made anew, as one is that comes out of a worker process
    assert (type(again), vars(again)) == (type(wrong.value), vars(wrong.value))


@pytest.mark.parametrize(
    ("status", "kind"), [(401, NotAllowed), (403, NotAllowed), (400, Refused), (500, Unavailable), (302, Unreadable)]
)
def test_other_refusals_are_told_apart(ask: Ask, status: int, kind: type[ClientError]) -> None:
    with scripted(http_answer(status, b"<html>no</html>")) as (url, sent), pytest.raises(kind) as refused:
        ask(url, "ready")
    assert refused.value.status == status
    assert str(status) in str(refused.value)
    assert len(sent) == 1


def test_what_is_no_answer_is_not_taken_for_one(ask: Ask) -> None:
    for body in (b"<html>", b"{}", b'{"items": []}'):
        with scripted(http_answer(200, body)) as (url, _), pytest.raises(Unreadable):
            ask(url, "search", text="x")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that clients wait, which they do not."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(clients, "time", SimpleNamespace(sleep=found.append))
    monkeypatch.setattr(clients, "asyncio", SimpleNamespace(sleep=sleep))
    return found


def test_a_busy_service_is_asked_again_when_it_says(ask: Ask, waits: list[float]) -> None:
    busy = http_answer(503, b"{}", "Retry-After: 7")
    with scripted(busy, http_answer(429, b"{}"), GOOD) as (url, sent):
        assert ask(url, "search", text="x").items == []
    assert len(sent) == 3
    assert sent[0] == sent[1] == sent[2]
    assert 7 <= waits[0] <= 7 + clients.MAX_BACKOFF
    assert 0 <= waits[1] <= clients.MAX_BACKOFF
    with scripted(busy) as (url, sent), pytest.raises(Unavailable) as ended:
        ask(url, "ready")
    assert len(sent) == 1 + clients.MAX_RETRIES
    assert ended.value.retry_after == 7
    soon = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 20))
    with scripted(http_answer(429, b"{}", f"Retry-After: {soon}"), GOOD) as (url, sent):
        ask(url, "search", text="x")
    assert 15 < waits[-1] <= 20 + clients.MAX_BACKOFF


def test_who_is_to_come_much_later_is_told_at_once(ask: Ask, waits: list[float]) -> None:
    with scripted(http_answer(429, b"{}", "Retry-After: 3600")) as (url, sent), pytest.raises(TooMany) as much_later:
        ask(url, "ready")
    assert (len(sent), much_later.value.retry_after, waits) == (1, 3600, [])


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("put_items", [{"item_id": "a"}]),
        ("patch_items", [{"item_id": "a"}]),
        ("delete_items", ["a"]),
        ("erase_user", "u"),
        ("set_preferences", "u"),
        ("activate", "r"),
    ],
)
def test_a_change_is_sent_once(ask: Ask, waits: list[float], name: str, given: Any) -> None:
    for answer, kind in ((http_answer(503, b"{}", "Retry-After: 0"), Unavailable), (HANG_UP, Unreachable)):
        with scripted(answer) as (url, sent), pytest.raises(kind):
            ask(url, name, given)
        assert (len(sent), waits) == (1, [])


def test_events_that_may_have_arrived_are_sent_again_as_they_were(ask: Ask, waits: list[float]) -> None:
    taken = b'{"request_id": "r", "release": "r", "took_ms": 1, "events": []}'
    events = [{"user_id": "u", "item_id": "a", "type": "click"}, {"event_id": "mine", "user_id": "u"}]
    with scripted(HANG_UP, http_answer(200, taken)) as (url, sent):
        ask(url, "send_events", events)
    assert len(sent) == 2
    first, second = ([event["event_id"] for event in body_of(each)["events"]] for each in sent)
    assert first == second
    assert len(first[0]) == 32
    assert first[1] == "mine"
    assert "event_id" not in events[0]


def test_who_never_answers_is_not_waited_for(ask: Ask) -> None:
    with scripted(SILENCE) as (url, sent), pytest.raises(Unreachable, match="ReadTimeout"):
        ask(url, "ready", options={"timeout": 0.1})
    assert len(sent) == 1
    with scripted(SILENCE) as (url, _), pytest.raises(Unreachable, match="ReadTimeout"):
        ask(url, "erase_user", "u", options={"change_timeout": 0.1})


def test_nobody_is_there(ask: Ask, waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}"):
        ask(f"http://someone:secret@127.0.0.1:{port}", "ready")
    assert len(waits) == clients.MAX_RETRIES


def test_the_key_is_sent_and_not_told(ask: Ask, caplog: pytest.LogCaptureFixture, waits: list[float]) -> None:
    caplog.set_level(logging.DEBUG)
    with scripted(GOOD, http_answer(401, b"{}"), HANG_UP) as (url, sent):
        ask(url, "search", text="x", options={"key": KEY})
        for kind in (NotAllowed, Unreachable):
            with pytest.raises(kind) as refused:
                ask(url, "ready", options={"key": KEY})
            assert KEY not in repr(refused.value)
    assert all(f"\r\nAuthorization: Bearer {KEY}\r\n".encode() in each for each in sent)
    assert "127.0.0.1" in caplog.text
    assert KEY not in caplog.text
    with Client(url, key=KEY) as shop:
        assert KEY not in f"{shop!r} {vars(shop)!r}"
    for broken in (f"{KEY}\n", "", "schlüssel", "two words"):
        with pytest.raises(ValueError, match="key") as wrong:
            Client(url, key=broken)
        assert KEY not in str(wrong.value)


def test_a_key_opens_what_it_may(copied: Settings, ask: Ask, waits: list[float]) -> None:
    key = create_key(copied.store, "shop", ["query"])
    slow = create_key(copied.store, "slow", ["query"], rate=0.1)
    with served(copied) as running:
        url = str(running.client.base_url)
        assert ask(url, "search", text="mug", options={"key": key}).items
        for name, given, options, status in (
            ("search", {"text": "mug"}, {}, 401),
            ("search", {"text": "mug"}, {"key": f"{key}x"}, 401),
            ("delete_items", {"item_ids": ["a"]}, {"key": key}, 403),
        ):
            with pytest.raises(NotAllowed) as refused:
                ask(url, name, **given, options=options)
            assert refused.value.status == status
        with pytest.raises(TooMany) as much:
            [ask(url, "search", text="mug", options={"key": slow}) for _ in range(5)]
        assert len(waits) == clients.MAX_RETRIES
        assert min(waits) >= 1
        assert much.value.retry_after is not None


def test_importing_it_brings_no_models() -> None:
    code = "import serve.client, sys; assert not {'torch', 'faiss', 'fastapi', 'onnxruntime'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


TYPED = """
from typing import Any, assert_type
from serve.client import AsyncClient, Client
from serve.schemas.search import ItemResponse, SearchResponse

async def use(shop: Client, other: AsyncClient) -> None:
    assert_type(shop.search(text="x", k=3), SearchResponse)
    assert_type(await other.search(text="x", k=3), SearchResponse)
    assert_type(shop.item("a"), ItemResponse)
    assert_type(await other.item("a"), ItemResponse)
    assert_type(shop.ready(), dict[str, str])
    shop.search(text=5)  # type: ignore[arg-type]
    await other.search(limit=5)  # type: ignore[call-arg]
    shop.item()  # type: ignore[call-arg]
    other.item("a").item  # type: ignore[attr-defined]
    shop.related("a", kind="twin")  # type: ignore[arg-type]
"""


def test_both_kinds_are_typed(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    (tmp_path / "use.py").write_text(TYPED)
    # Of what is imported only what says something of these types is looked at, which takes seconds and not a minute.
    files = [str(tmp_path / "use.py"), *(str(ROOT / "serve" / file) for file in ("client", "schemas"))]
    options = ["--config-file=", f"--cache-dir={tmp_path}", "--follow-imports=skip", "--warn-unused-ignores"]
    found, wrong, status = api.run([*options, *files])
    assert (status, wrong) == (0, ""), found


SILENCE, HANG_UP = None, b""


def http_answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


GOOD = http_answer(
    200,
    orjson.dumps(
        {
            **{"request_id": "r", "release": "r", "took_ms": 1, "ranked_by": "retrievers", "items": []},
            **{"understood": {"text": None, "filter": {}, "corrected": {}}, "facets": {}},
        }
    ),
)


def body_of(request: bytes) -> Any:
    return orjson.loads(request.partition(b"\r\n\r\n")[2])


@contextmanager
def scripted(*answers: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives each request the next of some answers, the last one again and again; and what it was sent."""
    listener, sent, held = socket.create_server(("127.0.0.1", 0)), list[bytes](), list[socket.socket]()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # the end of the test
                return
            sent.append(received(connection))
            answer = answers[min(len(sent), len(answers)) - 1]
            if answer is SILENCE:
                held.append(connection)
            else:
                connection.sendall(answer)
                connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", sent
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in held:
            connection.close()


def received(connection: socket.socket) -> bytes:
    """A whole request, by its announced length."""
    data = b""
    while True:
        head, end, body = data.partition(b"\r\n\r\n")
        lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-len")]
        if end and len(body) >= sum(lengths):
            return data
        data += connection.recv(1 << 16)
