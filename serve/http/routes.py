"""The operations: each takes a request, asks the engine, and answers."""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import PlainTextResponse

from serve.answer import answer, answer_candidates, answer_search, item_fields
from serve.edits import Outcome
from serve.errors import BadRequest, NotFound
from serve.experiment import CONTROL
from serve.guard import audit
from serve.http.contract import (
    MAX_HISTORY,
    AcrossDomains,
    Answer,
    CandidatesAnswer,
    CandidatesRequest,
    ForShopper,
    ItemAnswer,
    NeighboursQuery,
    RankAnswer,
    RankRequest,
    RecommendRequest,
    RelatedQuery,
    SearchAnswer,
    SearchRequest,
    SimilarRequest,
    SuggestAnswer,
    SuggestQuery,
)
from serve.http.kept import (
    ChangesAnswer,
    ErasedAnswer,
    EventsAnswer,
    EventsRequest,
    IdsRequest,
    ItemsRequest,
    PatchesRequest,
    PreferencesAnswer,
    UserAnswer,
)
from serve.learn.answer_store import Display
from serve.learn.known import Known
from serve.learn.preferences import Preferences
from serve.live import Live
from serve.metrics import ANSWERS, exposed
from serve.retrieve.engine import Engine, Taste, in_domains
from serve.retrieve.finding import Found
from serve.retrieve.query import Query
from serve.retrieve.related import related
from serve.stages import current

Parameters = TypeVar("Parameters", bound=BaseModel)


def _schemas(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schemas of a model and of those it refers to, by name, as the OpenAPI document keeps them."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), model.__name__: schema}


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """A model's fields as the OpenAPI document lists query parameters."""
    described = model.model_json_schema()
    required = described.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "description": of["description"], "schema": of}
        for name, of in described["properties"].items()
    ]


router = APIRouter()
SEARCH_SCHEMAS = _schemas(SearchRequest)
FORM_SCHEMA = {
    "type": "object",
    "description": "the fields of the JSON request; lists are repeated fields, weights are JSON, the image is a file",
    "properties": SEARCH_SCHEMAS["SearchRequest"]["properties"] | {"image": {"type": "string", "format": "binary"}},
}
ITEM_ID_PARAMETER = {"name": "item_id", "in": "path", "required": True, "schema": {"type": "string"}}
_INTEGER = re.compile("-?[0-9]{1,9}")
LIST_FIELDS = {"like", "unlike", "exclude", "spaces", "fields", "facets"}


async def _live(request: Request) -> Live:  # async, as FastAPI sends plain functions through a thread
    live: Live = request.app.state.live
    return live


LiveRelease = Annotated[Live, Depends(_live)]
UserIdInPath = Annotated[str, AfterValidator(unquote)]
ItemIdInPath = Annotated[str, AfterValidator(unquote)]  # the app routes on the path as sent


async def _search_request(request: Request) -> SearchRequest:
    """The request from JSON, or from a multipart form whose `image` is a file and whose lists are repeated fields."""
    try:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            return await _from_form(request)
        return SearchRequest.model_validate_json(await request.body())
    except ValidationError as error:
        found = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from error


def _read_query(request: Request, model: type[Parameters]) -> Parameters:
    """The query string as a model; a parameter it does not have is refused like any other mistake."""
    given = request.query_params
    values = {name: given.getlist(name) if name in LIST_FIELDS else given[name] for name in given}
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = [{**each, "loc": ("query", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found) from error


async def _from_form(request: Request) -> SearchRequest:
    async with request.form(max_files=8, max_fields=1000) as form:
        values: dict[str, Any] = {}
        photo: bytes | None = None
        for name in form:
            parts = form.getlist(name)
            if len(parts) > 1 and name not in LIST_FIELDS:
                raise BadRequest(f"{name} comes {len(parts)} times: give it once", name)
            if name == "image":
                if not isinstance(parts[0], UploadFile):
                    raise BadRequest("in a form the image is a file: -F image=@photo.jpg", "image")
                photo = await parts[0].read()
            elif name in LIST_FIELDS:
                values[name] = parts
            elif name in ("weights", "filter", "history"):
                values[name] = _json(str(parts[0]), name)
            else:
                values[name] = int(str(parts[0])) if name == "k" and _INTEGER.fullmatch(str(parts[0])) else parts[0]
        found = SearchRequest.model_validate(values)
        return found.model_copy(update={"image": photo})


def _json(text: str, name: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"{name} is not JSON: {error}", name) from error


@router.post(
    "/v1/search",
    response_model=SearchAnswer,
    summary="Search by words, photo and examples",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/SearchRequest"}},
                "multipart/form-data": {"schema": FORM_SCHEMA},
            },
        }
    },
)
async def search(request: Request, live: LiveRelease) -> Response:
    """Words enter every space that takes words, and find what is spelled so; a photo enters the image space, liked
    items all. All of it is fused."""
    started = time.perf_counter()
    wanted = await _search_request(request)
    engine, query = live.engine_for(wanted.user_id), query_of(wanted)
    # Encoding takes milliseconds of compute: in a thread, so that other requests are answered meanwhile.
    body = await run_in_threadpool(
        lambda: answer_search(engine, query, taste_of(live, wanted), wanted.fields, wanted.understand, wanted.facets)
    )
    return respond(engine, body, started)


def query_of(wanted: SearchRequest) -> Query:
    """What the engine is to look for."""
    return Query(
        k=wanted.k,
        text=wanted.text,
        image=wanted.image,
        like=wanted.like,
        unlike=wanted.unlike,
        weights=wanted.weights.model_dump(),
        exclude=wanted.exclude,
        spaces=wanted.spaces,
        filter=wanted.filter,
    )


@router.get(
    "/v1/suggest",
    response_model=SuggestAnswer,
    summary="What the begun words may become",
    openapi_extra={"parameters": _query_parameters(SuggestQuery)},
)
async def suggest(request: Request, live: LiveRelease) -> Response:
    """Phrases of titles, and what at least three shoppers searched for; misspelled beginnings are corrected."""
    started = time.perf_counter()
    wanted, engine = _read_query(request, SuggestQuery), live.engine
    return respond(engine, {"suggestions": engine.view.suggest(wanted.q, wanted.k)}, started)


@router.get("/v1/items/{item_id}", response_model=ItemAnswer, summary="One item")
async def item(item_id: ItemIdInPath, live: LiveRelease) -> Response:
    """All that the catalogue says of an item."""
    started = time.perf_counter()
    engine = live.engine
    number = engine.number(item_id)
    return respond(engine, {"item": {"item_id": item_id, **item_fields(engine.view, number)}}, started)


@router.get(
    "/v1/items/{item_id}/similar",
    response_model=Answer,
    summary="Items like this one",
    openapi_extra={"parameters": [ITEM_ID_PARAMETER, *_query_parameters(NeighboursQuery)]},
)
async def similar_to_item(request: Request) -> Response:
    """Neighbours of an item, by one space or fused over all."""
    started = time.perf_counter()
    # The busiest call: its parameters are read by their model, as FastAPI's own reading takes as long as the search.
    wanted = _read_query(request, NeighboursQuery)
    live = await _live(request)
    engine, spaces, item_ids = (
        live.engine_for(wanted.user_id),
        [wanted.space] if wanted.space else (),
        [unquote(request.path_params["item_id"])],
    )
    if wanted.user_id is None:
        found = engine.similar(item_ids, wanted.k, spaces, wanted.filter, "item_id")
    else:  # in a thread, as it reads events and scores
        found = await run_in_threadpool(
            lambda: engine.similar(
                item_ids,
                wanted.k,
                spaces,
                wanted.filter,
                "item_id",
                live.shoppers.taste(wanted.user_id, (), wanted.personal, wanted.explain),
            )
        )
    return respond(engine, answer(engine.view, found, wanted.fields), started)


@router.get(
    "/v1/items/{item_id}/related",
    response_model=Answer,
    summary="What goes with this one",
    openapi_extra={"parameters": [ITEM_ID_PARAMETER, *_query_parameters(RelatedQuery)]},
)
def related_to_item(request: Request, live: LiveRelease) -> Response:
    """By the shop's own relations and what they imply: complements for who takes it, substitutes for who looks."""
    started = time.perf_counter()
    wanted, engine = _read_query(request, RelatedQuery), live.engine
    item_id = unquote(request.path_params["item_id"])
    found = related(engine, item_id, wanted.k, wanted.relation, wanted.kind, wanted.filter)
    return respond(engine, answer(engine.view, found, wanted.fields), started)


@router.post("/v1/similar", response_model=Answer, summary="Items like several together")
def similar_to_items(wanted: SimilarRequest, live: LiveRelease) -> Response:
    """Neighbours of the given items' common direction."""
    started = time.perf_counter()
    engine = live.engine_for(wanted.user_id)
    spaces, taste = [wanted.space] if wanted.space else (), taste_of(live, wanted)
    found = engine.similar(wanted.item_ids, wanted.k, spaces, wanted.filter, taste=taste)
    return respond(engine, answer(engine.view, found, wanted.fields), started)


@router.post("/v1/recommend", response_model=Answer, summary="What a shopper will want next")
def recommend(wanted: RecommendRequest, live: LiveRelease) -> Response:
    """By what the shopper did until this moment; an unknown one gets what is popular and new."""
    started = time.perf_counter()
    engine, known = _known(live, wanted)
    bucket = CONTROL if wanted.user_id is None else live.bucket(wanted.user_id)
    ANSWERS.labels(engine.view.release.name, bucket).inc()
    # To whom nothing personal is shown, nothing shown is put down.
    log = None
    if wanted.log:
        log = live.log(current().id, wanted.user_id if known.preferences.personal else None, engine)
    return respond(engine, answer(engine.view, recommended(engine, known, wanted, log), wanted.fields), started)


def recommended(
    engine: Engine, known: Known, wanted: RecommendRequest, log: Callable[[Display], None] | None = None
) -> Sequence[Found]:
    """What a shopper of whom this is known will want next; `log` is given what is shown."""
    return engine.recommend(
        known.events,
        wanted.k,
        [*known.left_out, *wanted.exclude],
        in_domains(wanted.filter, wanted.to),
        wanted.explain,
        wanted.diversity,
        wanted.explore if known.preferences.explore else False,
        known.preferences.blocked,
        log,
    )


@router.post("/v1/rank", response_model=RankAnswer, summary="Items from elsewhere, in a shopper's order")
def rank(wanted: RankRequest, live: LiveRelease) -> Response:
    """For lists that another service made. Nothing is left out but what is not there, which is named."""
    started = time.perf_counter()
    engine, known = _known(live, wanted)
    found, unknown = engine.rank(known.events, wanted.item_ids, wanted.explain)
    return respond(engine, answer(engine.view, found, wanted.fields) | {"unknown": unknown}, started)


@router.post("/v1/candidates", response_model=CandidatesAnswer, summary="Candidates for another service")
def candidates(wanted: CandidatesRequest, live: LiveRelease) -> Response:
    """Up to thousands, with their score in each source and who proposed them."""
    started = time.perf_counter()
    engine, known = _known(live, wanted)
    left_out = [*known.left_out, *wanted.exclude]
    conditions = in_domains(wanted.filter, wanted.to)
    found = engine.candidates(known.events, wanted.k, left_out, conditions, known.preferences.blocked)
    return respond(engine, {"items": answer_candidates(engine.view, found)}, started)


@router.post("/v1/events", response_model=EventsAnswer, summary="What shoppers did")
def events(wanted: EventsRequest, live: LiveRelease) -> Response:
    """Durable when this answers, and the very next answer of every process goes by it. Send an `event_id`, so that
    what is sent again is known again. Each event has a status of its own."""
    started = time.perf_counter()
    engine = live.engine
    taken = live.take_events(wanted.events, engine)
    return respond(engine, {"events": taken}, started)


@router.get("/v1/users/{user_id}", response_model=UserAnswer, summary="What is known of a user")
def user(user_id: UserIdInPath, live: LiveRelease) -> Response:
    """How many events there are, and the last of them, the latest first."""
    started = time.perf_counter()
    count = live.shoppers.events.count(user_id)
    history = [
        {name: value for name, value in asdict(event).items() if value is not None and name != "user_id"}
        for event in reversed(live.shoppers.events.recent(user_id, MAX_HISTORY))
    ]
    preferences = live.shoppers.rights.preferences(user_id).model_dump()
    body = {"user_id": user_id, "known": count > 0, "events": count, "history": history, "preferences": preferences}
    return respond(live.engine, body, started)


@router.put("/v1/users/{user_id}/preferences", response_model=PreferencesAnswer, summary="What a user wants of answers")
def prefer(user_id: UserIdInPath, wanted: Preferences, live: LiveRelease) -> Response:
    """Replaces what was set before; answers of every process keep to it from now on, `rank` excepted."""
    started = time.perf_counter()
    live.shoppers.rights.prefer(user_id, wanted)
    return respond(live.engine, {"user_id": user_id, "preferences": wanted.model_dump()}, started)


@router.delete("/v1/users/{user_id}", response_model=ErasedAnswer, summary="Forget a user")
def erase(user_id: UserIdInPath, request: Request, live: LiveRelease) -> Response:
    """Removes events, answers and preferences, on disk when this answers; what is trained next does not have them."""
    started = time.perf_counter()
    removed = live.shoppers.erase(user_id)
    audit.note(_store(request), "erase", by_whom(request), user=audit.hashed(user_id))
    return respond(live.engine, {"user_id": user_id, "removed": removed}, started)


@router.put("/v1/items", response_model=ChangesAnswer, summary="Add or replace items")
def put_items(wanted: ItemsRequest, request: Request, live: LiveRelease) -> Response:
    """Encoded, durable, and visible in every process within a second. Each row has a status of its own."""
    return _changed(request, live, "put", lambda: live.put(wanted.items))


@router.patch("/v1/items", response_model=ChangesAnswer, summary="Change price or availability")
def patch_items(wanted: PatchesRequest, request: Request, live: LiveRelease) -> Response:
    """For what no encoder reads: fast, and the other fields stay as they are."""
    return _changed(request, live, "patch", lambda: live.patch(wanted.items))


@router.delete("/v1/items", response_model=ChangesAnswer, summary="Delete several items")
def delete_items(wanted: IdsRequest, request: Request, live: LiveRelease) -> Response:
    """Gone from every answer of every process within a second, and from the next build."""
    return _changed(request, live, "delete", lambda: live.delete(wanted.item_ids))


@router.delete("/v1/items/{item_id}", response_model=ChangesAnswer, summary="Delete an item")
def delete_item(item_id: ItemIdInPath, request: Request, live: LiveRelease) -> Response:
    """Gone from every answer of every process within a second, and from the next build."""
    return _changed(request, live, "delete", lambda: live.delete([item_id]), unknown_is_an_error=True)


@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/metrics", summary="What Prometheus reads", response_class=PlainTextResponse)
def metrics() -> Response:
    """Counts and gauges of all processes that answer."""
    body, kind = exposed()
    return Response(body, media_type=kind)


@router.get("/readyz", summary="Whether a release is loaded")
async def readyz(live: LiveRelease) -> dict[str, str]:
    return {"status": "ready", "release": live.engine.view.release.name}


def _known(live: Live, wanted: RecommendRequest | RankRequest | CandidatesRequest) -> tuple[Engine, Known]:
    """The engine that answers a shopper, and what it goes by."""
    history = [event.model_dump() for event in wanted.history]
    engine, known = live.engine_for(wanted.user_id), live.shoppers.known(wanted.user_id, history)
    if isinstance(wanted, AcrossDomains) and wanted.from_:
        known = replace(known, events=engine.done_in(known.events, wanted.from_))
    return engine, known


def taste_of(live: Live, wanted: ForShopper) -> Taste | None:
    """For whom a search is; None where the request does not say."""
    history = [event.model_dump() for event in wanted.history]
    return live.shoppers.taste(wanted.user_id, history, wanted.personal, wanted.explain)


def _changed(
    request: Request, live: Live, act: str, change: Callable[[], list[Outcome]], unknown_is_an_error: bool = False
) -> Response:
    started = time.perf_counter()
    outcomes = change()
    engine = live.engine
    counts = dict(Counter(outcome.status for outcome in outcomes))
    audit.note(_store(request), f"{act} items", by_whom(request), **counts)
    if unknown_is_an_error and outcomes[0].status == "unknown":
        raise NotFound(f"there is no item {outcomes[0].item_id!r}", "item_id", "unknown_item")
    return respond(engine, {"items": outcomes}, started)


def respond(engine: Engine, body: dict[str, Any], started: float) -> Response:
    """An answer with what every answer has; `partial` names what it goes without, if anything."""
    took, answering = round((time.perf_counter() - started) * 1000, 3), current()
    head = {"request_id": answering.id, "release": engine.view.release.name, "took_ms": took}
    partial = {"partial": answering.partial} if answering.partial else {}
    return Response(orjson.dumps(head | partial | body), media_type="application/json")


def by_whom(request: Request) -> str:
    """Who calls, for the audit log."""
    key = request.state.caller.key
    return f"key {key.name}" if key else "this machine, without a key"


def _store(request: Request) -> Path:
    store: Path = request.app.state.settings.store
    return store
