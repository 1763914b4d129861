"""Encoders on an embedding server: what is sent, what is refused, and what an outage does to builds and services."""

import asyncio
import base64
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import uvicorn
from helpers.live import row, write_feed
from helpers.service import free_port, good, refused, served, until
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from embed import encode_job
from embed.encoders import (
    Device,
    EncoderOptions,
    ImageEncoder,
    TextEncoder,
    embedding_server,
    load_image_encoder,
    load_text_encoder,
    server_encoders,
)
from embed.encoders.agreement import example_images
from embed.encoders.embedding_server import EmbeddingServer
from embed.encoders.encoder import unit_rows
from embed.errors import BadInput, EmbedError, Missing, Unavailable
from serve.core.settings import Settings, load_settings
from serve.engine import query_encoders
from serve.engine.query import Query
from serve.engine.response import local_response, search_body
from serve.jobs import encoder_check
from serve.jobs.build import build
from serve.live import release_watcher

CPU = Device("cpu", 1)
DIM = 8
KEY = "sk-not-to-be-seen"
Reply = Callable[[dict[str, Any]], Response | None]


def vector_of(words: str, dim: int = DIM) -> list[float]:
    seed = int.from_bytes(blake2b(words.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).normal(size=dim).tolist()


def embeddings(body: dict[str, Any]) -> dict[str, Any]:
    """A right reply, last input first."""
    kind, dim = body.get("modality", "text"), body.get("dimensions", DIM)
    data = [
        {"object": "embedding", "index": index, "embedding": vector_of(f"{kind} {each}", dim)}
        for index, each in enumerate(body["input"])
    ]
    return {"object": "list", "model": body["model"], "data": data[::-1]}


class FakeServer:
    """An embedding server; `reply` makes another response than the right one, `down` refuses all."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: Reply = lambda body: None
        self.down = False
        self.active = self.most_active = 0
        self.wait_for = 0  # requests at once, before which none is answered
        self.url = ""

    async def embed(self, request: Request) -> Response:
        if self.down:
            return JSONResponse({"error": "restarting"}, 503)
        body = orjson.loads(await request.body())
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.active += 1
        self.most_active = max(self.active, self.most_active)
        for _ in range(200):
            if self.most_active >= self.wait_for:
                break
            await asyncio.sleep(0.01)
        self.active -= 1
        return self.reply(body) or Response(orjson.dumps(embeddings(body)))

    @property
    def inputs(self) -> list[list[str]]:
        """The inputs of each request but the first, which asks for the dimensions."""
        return [body["input"] for body in self.bodies[1:]]


@contextmanager
def running(server: FakeServer, port: int = 0) -> Iterator[FakeServer]:
    app = Starlette(routes=[Route("/v1/embeddings", server.embed, methods=["POST"])])
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, log_level="error"))
    thread = threading.Thread(target=uvicorn_server.run)
    thread.start()
    until(lambda: uvicorn_server.started)
    server.url = f"http://127.0.0.1:{uvicorn_server.servers[0].sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        uvicorn_server.should_exit = True
        thread.join()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer()) as started:
        yield started


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(embedding_server, "time", made)
    return made


def text_encoder(server: FakeServer, **options: Any) -> TextEncoder:
    return load_text_encoder("http:shop", CPU, EncoderOptions(base_url=server.url, **options))


def image_encoder(server: FakeServer, **options: Any) -> ImageEncoder:
    return load_image_encoder("http:shop", CPU, EncoderOptions(base_url=server.url, images=True, **options))


def right(texts: list[str], kind: str = "text", dim: int = DIM) -> Any:
    return unit_rows(np.array([vector_of(f"{kind} {text}", dim) for text in texts]))


# ------------------------------------------------------------------------------------------------------------ texts


def test_texts_go_in_batches_and_come_in_order(server: FakeServer) -> None:
    encoder = text_encoder(server)
    assert not isinstance(encoder, ImageEncoder)
    assert (encoder.name, encoder.dim) == ("http:shop", DIM)
    texts = [f"text {number}" for number in range(70)]
    encoded = encoder.encode_texts(texts)
    np.testing.assert_array_equal(encoded.vectors, right(texts))
    assert encoded.truncated == 0
    assert sorted(map(len, server.inputs)) == [6, 32, 32]
    assert server.bodies[0] == {"model": "shop", "input": ["any"], "encoding_format": "float"}
    assert "authorization" not in server.headers[0]
    assert encoder.encode_texts([]).vectors.shape == (0, DIM)
    assert len(server.bodies) == 4


def test_several_requests_run_at_once(server: FakeServer) -> None:
    encoder = text_encoder(server)
    server.wait_for = server_encoders.STREAMS
    encoder.encode_texts(["text"] * 6 * server_encoders.BATCH)
    assert server.most_active == server_encoders.STREAMS


def test_requests_are_bounded_in_size(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_encoders, "MAX_REQUEST_CHARACTERS", 100)
    texts = ["x" * 60, "y" * 40, "z" * 300, "a", "b" * 99, "c"]
    np.testing.assert_array_equal(text_encoder(server).encode_texts(texts).vectors, right(texts))
    assert server.inputs == [texts[:2], texts[2:3], texts[3:5], texts[5:]]


def test_prompts_model_and_dimensions_are_sent(server: FakeServer) -> None:
    encoder = text_encoder(server, model="org/e5", query_prompt="query: ", document_prompt="passage: ", truncate_dim=4)
    assert encoder.dim == 4
    np.testing.assert_array_equal(encoder.encode_texts(["tea"], query=True).vectors, right(["query: tea"], dim=4))
    np.testing.assert_array_equal(encoder.encode_texts(["tea"]).vectors, right(["passage: tea"], dim=4))
    assert {(body["model"], body["dimensions"]) for body in server.bodies} == {("org/e5", 4)}
    assert encoder.details["query prompt"] == "'query: '"
    assert encoder.details["runs in"] == f"the server at {server.url}, as org/e5"


def test_the_fingerprint_covers_what_changes_a_vector(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", KEY)
    plain = text_encoder(server).fingerprint
    assert text_encoder(server, api_key_variable="SHOP_KEY").fingerprint == plain
    with running(FakeServer()) as other:
        assert text_encoder(other, model="shop").fingerprint == plain
    changed: list[dict[str, Any]] = [
        {"model": "other"},
        {"query_prompt": "q"},
        {"document_prompt": "q"},
        {"truncate_dim": DIM},
    ]
    others = [text_encoder(server, **options).fingerprint for options in changed]
    renamed = load_text_encoder("http:shop-2", CPU, EncoderOptions(base_url=server.url, model="shop")).fingerprint
    assert len({plain, renamed, image_encoder(server).fingerprint, *others}) == 7


# -------------------------------------------------------------------------------------------------------------- key


def test_the_key_is_sent_and_never_shown(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_KEY", KEY)
    encoder = text_encoder(server, api_key_variable="SHOP_KEY")
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{encoder} {encoder.details}"
    server.reply = lambda body: JSONResponse({"error": {"message": f"key {KEY} has expired"}}, 401)
    with pytest.raises(Unavailable, match=r"HTTP 401: key \*\*\* has expired\): check base_url, model and api_key"):
        encoder.encode_texts(["a"])


@pytest.mark.parametrize(("value", "error"), [(None, Missing), ("", Missing), (f"{KEY}\n", BadInput)])
def test_a_bad_key_is_named_by_its_variable(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, value: str | None, error: type[EmbedError]
) -> None:
    if value is not None:
        monkeypatch.setenv("SHOP_KEY", value)
    with pytest.raises(error, match="SHOP_KEY") as raised:
        text_encoder(server, api_key_variable="SHOP_KEY")
    assert KEY not in str(raised.value)
    assert raised.value.field == "encoders.http:shop.api_key_variable"
    assert not server.bodies


@pytest.mark.parametrize(
    ("name", "base_url", "message"),
    [
        ("http:shop", "", r'no base_url: write .* below \[encoders."http:shop"\] in vetrina.toml'),
        ("http:shop", "http://host:port/v1", "is not a URL"),
        ("http:shop", "http://host/v1?key=1", "leave out what follows the path"),
        ("http:", "http://host/v1", "has no name: write http:NAME"),
        ("http://host/v1", "", "has no name: write http:NAME"),
    ],
)
def test_settings_without_a_usable_address_say_what_to_write(name: str, base_url: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        load_text_encoder(name, CPU, EncoderOptions(base_url=base_url))


# -------------------------------------------------------------------------------------------------- busy and broken


def test_a_busy_server_is_asked_again(server: FakeServer, clock: Clock) -> None:
    encoder = text_encoder(server)
    replies = [
        JSONResponse({}, 503),
        JSONResponse({}, 429, headers={"retry-after": "7"}),
        Response(b"short", headers={"content-length": "9"}),  # the connection breaks
    ]
    server.reply = lambda body: replies.pop(0) if replies else None
    np.testing.assert_array_equal(encoder.encode_texts(["a", "b"]).vectors, right(["a", "b"]))
    assert not replies
    assert clock.waits[1] == 7
    assert 0 < clock.waits[0] < clock.waits[2] < 2


@pytest.mark.parametrize(
    ("texts", "limit"), [(["a"], embedding_server.SHORT_RETRIES_S), (["a", "b"], embedding_server.PATIENCE_S)]
)
def test_a_server_that_stays_busy_is_given_up(server: FakeServer, clock: Clock, texts: list[str], limit: float) -> None:
    encoder = text_encoder(server)
    server.reply = lambda body: JSONResponse({"detail": "loading"}, 503)
    with pytest.raises(Unavailable, match=r"server of http:shop responds with HTTP 503: loading, in \d+ tries: see"):
        encoder.encode_texts(texts)
    assert limit / 4 < clock.now <= limit
    waited = len(clock.waits)
    server.reply = lambda body: JSONResponse({}, 429, headers={"retry-after": "3600"})
    with pytest.raises(Unavailable, match="in 1 tries"):
        encoder.encode_texts(texts)
    assert len(clock.waits) == waited


def test_a_server_that_is_not_there_is_unavailable(clock: Clock) -> None:
    absent = FakeServer()
    absent.url = f"http://127.0.0.1:{free_port()}/v1"
    with pytest.raises(Unavailable, match=r"http:shop does not respond \(ConnectError\)") as raised:
        text_encoder(absent)
    assert absent.url not in str(raised.value)  # callers of a service see the message


def changed(**values: Any) -> Reply:
    return lambda body: Response(orjson.dumps(embeddings(body) | values))


def with_rows(change: Callable[[list[dict[str, Any]]], Any]) -> Reply:
    def reply(body: dict[str, Any]) -> Response:
        right_reply = embeddings(body)
        change(right_reply["data"])
        return Response(orjson.dumps(right_reply))

    return reply


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (changed(model="other"), "model 'other', and 'shop' was asked for"),
        (changed(data=[]), "sent 0 vectors for 2 inputs"),
        (changed(data={"a": 1}), "not a list of embeddings"),
        (lambda body: Response(b"<html>"), "not a list of embeddings"),
        (lambda body: Response(b'{"model": "shop", "data": [{"index": 0, "embedding": [NaN]}]}'), "finite numbers"),
        (lambda body: Response(b" " * (1 << 20)), "sent more than 0 MiB"),
        (with_rows(lambda rows: rows.pop()), "sent 1 vectors for 2 inputs"),
        (with_rows(lambda rows: rows[0].update(index=0)), "sent 2 vectors for 2 inputs, with the indexes"),
        (with_rows(lambda rows: rows[0].pop("index")), "not a list of embeddings"),
        (with_rows(lambda rows: rows[0].update(embedding=[0.0] * DIM)), "not finite, or zero"),
        (with_rows(lambda rows: rows[0].update(embedding=[1e300] * DIM)), "not finite, or zero"),
        (with_rows(lambda rows: rows[0].update(embedding=[1.0] * 7)), "several dimensions"),
        (with_rows(lambda rows: [each.update(embedding=[1.0] * 7) for each in rows]), "of 7 dimensions, and 8 came"),
        (with_rows(lambda rows: [each.update(embedding=["1"] * DIM) for each in rows]), "not lists of numbers"),
        (with_rows(lambda rows: rows[0].update(embedding=[None] * DIM)), "not lists of numbers"),
        (with_rows(lambda rows: [each.update(embedding="AAAA") for each in rows]), "not lists of numbers"),
    ],
)
def test_a_wrong_reply_is_refused(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch, reply: Reply, message: str
) -> None:
    encoder = text_encoder(server)
    monkeypatch.setattr(embedding_server, "MAX_REPLY_BYTES", 100_000)
    server.reply = reply
    with pytest.raises(Unavailable, match=message):
        encoder.encode_texts(["a", "b"])
    assert len(server.inputs) == 1  # no retry


def test_dimensions_that_a_server_ignores_are_refused(server: FakeServer) -> None:
    server.reply = lambda body: Response(orjson.dumps(embeddings(body | {"dimensions": DIM})))
    with pytest.raises(Unavailable, match="of 8 dimensions, and 4 were asked for"):
        text_encoder(server, truncate_dim=4)


def test_a_refused_input_is_the_caller_s(server: FakeServer) -> None:
    encoder = text_encoder(server)
    server.reply = lambda body: JSONResponse({"error": {"message": "too long " * 100}}, 400)
    with pytest.raises(BadInput, match=r"refuses the input \(HTTP 400: too long too") as raised:
        encoder.encode_texts(["a"])
    assert len(str(raised.value)) < 300
    server.reply = lambda body: Response(b"\xff no such model", 404)
    with pytest.raises(Unavailable, match="no such model"):
        encoder.encode_texts(["a"])


def test_a_redirect_is_not_followed(server: FakeServer) -> None:
    with running(FakeServer()) as target:
        server.reply = lambda body: RedirectResponse(f"{target.url}/embeddings")
        with pytest.raises(Unavailable, match="redirects, which is not followed"):
            text_encoder(server)
        assert not target.bodies


# ----------------------------------------------------------------------------------------------------------- images


def test_photos_and_words_share_a_space(server: FakeServer) -> None:
    encoder = image_encoder(server)
    assert isinstance(encoder, ImageEncoder)
    assert isinstance(encoder, TextEncoder)
    photos = [example_images(900, 600)[0], example_images(50, 70)[1]]
    prepare = pickle.loads(pickle.dumps(encoder.prepare))  # noqa: S301  what a process pool does
    prepared = [prepare(photo) for photo in photos]
    assert prepared == [encoder.prepare(photo) for photo in photos]
    before = len(server.bodies)
    np.testing.assert_array_equal(encoder.encode_images(prepared), right(prepared, "image"))
    np.testing.assert_array_equal(encoder.encode_texts(["tea"]).vectors, right(["tea"]))
    (sent,) = server.bodies[before:-1]
    assert sent == {"model": "shop", "encoding_format": "float", "modality": "image", "input": prepared}
    assert "modality" not in server.bodies[-1]
    for url, photo, size in zip(prepared, photos, ((512, 768), (70, 50)), strict=True):
        head, _, data = url.partition(",")
        assert head == "data:image/jpeg;base64"
        seen = Image.open(io.BytesIO(base64.b64decode(data)))
        assert seen.size == size
        same = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC), np.int16)
        assert np.abs(np.asarray(seen, np.int16) - same).mean() < 4  # of 255; the grain is hard for JPEG


def test_images_need_the_option_and_a_server_that_takes_them(server: FakeServer) -> None:
    with pytest.raises(BadInput, match="is for texts: if its server takes images as data URLs, write images = true"):
        load_image_encoder("http:shop", CPU, EncoderOptions(base_url=server.url))
    server.reply = lambda body: JSONResponse({"detail": "no images"}, 422) if "modality" in body else None
    with pytest.raises(Unavailable, match=r"HTTP 422: no images.*without images = true, http:shop is for texts"):
        image_encoder(server)
    server.reply = lambda body: Response(orjson.dumps(embeddings(body | {"modality": "text"})))
    with pytest.raises(Unavailable, match="read it as words"):
        image_encoder(server)
    server.reply = lambda body: JSONResponse({}, 400) if "modality" not in body and len(body["input"][0]) > 99 else None
    assert image_encoder(server).dim == DIM  # data URLs may be too long for a text


# ------------------------------------------------------------------------------------------------ builds and services


@pytest.fixture
def settings(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a store whose encoders are on a server that needs a key, from a file."""
    monkeypatch.setenv("SHOP_KEY", KEY)
    config = tmp_path / "vetrina.toml"
    config.write_text(
        f'store = "{tmp_path}/store"\nimage_encoder = "http:shop"\ntext_encoder = "http:shop"\nalign = false\n'
        f'[encoders."http:shop"]\nbase_url = "{server.url}"\napi_key_variable = "SHOP_KEY"\nimages = true\n'
    )
    monkeypatch.setenv("VETRINA_CONFIG", str(config))
    monkeypatch.setattr(embedding_server, "PATIENCE_S", 0.5)
    monkeypatch.setattr(embedding_server, "SHORT_PATIENCE_S", 0.5)
    monkeypatch.setattr(release_watcher, "RETRY_SECONDS", 0.1)
    return load_settings()


def feed(folder: Path) -> Path:
    rows = []
    for number, image in enumerate(example_images(32, 32)[:12]):
        Image.fromarray(image).save(folder / f"{number}.png")
        rows.append(row(f"i{number}", number, images=[f"{number}.png"]))
    return write_feed(folder / "feed.jsonl", rows)


def test_the_doctor_shows_what_a_server_is(
    server: FakeServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_check, "MIN_SECONDS", 0.01)
    shown = {finding.subject: finding.detail for finding in encoder_check.examine_encoder(settings, "http:shop")}
    assert shown["encoder"] == "http:shop: photos and texts in one space"
    assert shown["runs in"] == f"the server at {server.url}, as shop"
    assert {"weights", "truncation", "preprocessing", "query prompt", "photos", "texts"} <= shown.keys()
    assert KEY not in str(shown)


def test_an_outage_ends_a_build_and_the_next_goes_on(
    server: FakeServer, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_job, "PART_SIZE", 5)
    path = feed(tmp_path)

    def fails_later(body: dict[str, Any]) -> Response | None:
        is_late = len([each for each in server.bodies if "modality" not in each]) > 5
        return JSONResponse({}, 503) if is_late else None

    server.reply = fails_later
    with pytest.raises(Unavailable, match="http:shop responds with HTTP 503"):
        build(settings, path)
    before, server.reply = len(server.bodies), lambda body: None
    build(settings, path)
    again = [each for body in server.bodies[before:] for each in body["input"] if "modality" not in body]
    assert len([each for each in again if each != "any" and not each.startswith("data:")]) == 2
    stored = [each.read_bytes() for each in settings.store.rglob("*") if each.is_file()]
    assert stored
    assert not any(KEY.encode() in each for each in stored)


def test_an_outage_is_503_and_loses_nothing(server: FakeServer, settings: Settings, tmp_path: Path) -> None:
    build(settings, feed(tmp_path))
    photo = base64.b64encode((tmp_path / "3.png").read_bytes()).decode()
    server.down = True
    with served(settings) as service:
        assert "http:shop responds with HTTP 503" in refused(service.search(text="hat"), 503)["message"]
        server.down = False
        until(lambda: service.client.get("/readyz").status_code == 200)
        assert service.ids(image=photo)[0] == "i3"
        server.down = True
        for query in ({"text": "a new query", "spaces": ["text"]}, {"image": photo}):
            response = service.search(**query)
            error = refused(response, 503)
            assert error["code"] == "unavailable"
            assert "http:shop responds with HTTP 503: restarting" in error["message"]
            assert response.headers["retry-after"]
        changes = {"items": [row("new", 20)]}
        assert refused(service.client.put("/v1/items", json=changes), 503)["code"] == "unavailable"
        assert service.client.get("/v1/items/new").status_code == 404
        server.down = False
        assert good(service.client.put("/v1/items", json=changes))["items"][0]["status"] == "created"
        assert service.ids(text="a new query")


def test_a_search_goes_on_without_the_space_of_an_absent_server(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    monkeypatch.setattr(query_encoders, "time", clock)
    monkeypatch.setattr(query_encoders, "LONG_S", -1.0)  # no time passes while a query waits
    asked, embed = list[Any](), EmbeddingServer.embed
    monkeypatch.setattr(
        EmbeddingServer,
        "embed",
        lambda self, inputs, *more, **named: asked.append(inputs) or embed(self, inputs, *more, **named),
    )
    port = free_port()
    options = EncoderOptions(base_url=f"http://127.0.0.1:{port}/v1")
    changes = {"image_encoder": "bundled", "encoders": {"http:shop": options}}
    settings = settings.model_copy(update=changes)
    with ExitStack() as stack:
        with running(FakeServer(), port):
            build(settings, feed(tmp_path))
            service = stack.enter_context(served(settings))
            until(lambda: service.client.get("/readyz").status_code == 200)
            whole = good(service.search(text="canvas", like=["i3"]))
            assert "partial" not in whole
            assert set(whole["items"][0]["retriever_scores"]) >= {"image", "text"}
        asked.clear()
        found = good(service.search(text="canvas shoe", like=["i3"]))
        assert found["partial"] == ["text"]
        assert {name for item in found["items"] for name in item["retriever_scores"]} == {"image", "keywords"}
        assert asked == [["canvas shoe"]]
        assert good(service.search(text="blue shoe"))["partial"] == ["text"]
        error = refused(service.search(text="blue shoe", spaces=["text"]), 503)
        assert error["message"].startswith("the embedding server of http:shop does not respond (ConnectError)")
        engine = service.app.state.live.engine
        local = local_response(engine, lambda: search_body(engine, Query(k=5, text="blue shoe"), None))
        assert local["partial"] == ["text"]
        with pytest.raises(Unavailable):  # learned weights must not lack a space
            engine.scores_by_retriever("blue shoe")
        assert asked == [["canvas shoe"]]  # nobody else waits for it
        assert "partial" not in good(service.search(text="canvas", like=["i3"]))  # cached
        assert 'vetrina_partial_total{missing="text"}' in service.client.get("/metrics").text
        with running(FakeServer(), port):
            clock.now += query_encoders.PAUSE_S
            assert "partial" not in good(service.search(text="blue shoe"))
            assert service.ids(text="green shoe", spaces=["text"])
        assert sum(each.startswith("searching without encoder http:shop") for each in caplog.messages) == 1
