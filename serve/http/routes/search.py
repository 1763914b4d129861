"""The operations that ask: each takes a request, asks the engine, and answers."""

import time
from urllib.parse import unquote

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from serve.engine.engine import PersonalizationContext
from serve.engine.query import Query
from serve.engine.related_items import related
from serve.engine.response import answer, answer_search, item_fields
from serve.http.request_parsing import (
    FORM_SCHEMA,
    ITEM_ID_PARAMETER,
    ItemIdInPath,
    LiveRelease,
    live_of,
    query_parameters,
    read_query,
    read_search,
    respond,
)
from serve.live.runtime import ServiceRuntime
from serve.schemas.search import (
    ItemResponse,
    ItemsResponse,
    NeighboursQuery,
    PersonalizedRequest,
    RelatedQuery,
    SearchRequest,
    SearchResponse,
    SimilarRequest,
    SuggestQuery,
    SuggestResponse,
)

router = APIRouter()


@router.get(
    "/v1/items/{item_id}/similar",
    response_model=ItemsResponse,
    summary="Items like this one",
    openapi_extra={"parameters": [ITEM_ID_PARAMETER, *query_parameters(NeighboursQuery)]},
)
async def similar_to_item(request: Request) -> Response:
    """Neighbours of an item, by one space or fused over all."""
    started = time.perf_counter()
    # The busiest call comes first, as routes are tried in order, and its parameters are read by their model, as
    # FastAPI's own reading takes as long as the search.
    wanted = read_query(request, NeighboursQuery)
    live = await live_of(request)
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
                live.users.personalization(wanted.user_id, (), wanted.personal, wanted.explain),
            )
        )
    return respond(engine, answer(engine.view, found, wanted.fields), started)


@router.post(
    "/v1/search",
    response_model=SearchResponse,
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
    wanted = await read_search(request)
    engine, query = live.engine_for(wanted.user_id), query_of(wanted)
    # Encoding takes milliseconds of compute: in a thread, so that other requests are answered meanwhile.
    body = await run_in_threadpool(
        lambda: answer_search(
            engine, query, personalization_of(live, wanted), wanted.fields, wanted.understand, wanted.facets
        )
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
    response_model=SuggestResponse,
    summary="What the begun words may become",
    openapi_extra={"parameters": query_parameters(SuggestQuery)},
)
async def suggest(request: Request, live: LiveRelease) -> Response:
    """Phrases of titles, and what at least three shoppers searched for; misspelled beginnings are corrected."""
    started = time.perf_counter()
    wanted, engine = read_query(request, SuggestQuery), live.engine
    return respond(engine, {"suggestions": engine.view.suggest(wanted.q, wanted.k)}, started)


@router.get("/v1/items/{item_id}", response_model=ItemResponse, summary="One item")
async def item(item_id: ItemIdInPath, live: LiveRelease) -> Response:
    """All that the catalogue says of an item."""
    started = time.perf_counter()
    engine = live.engine
    number = engine.item_index(item_id)
    return respond(engine, {"item": {"item_id": item_id, **item_fields(engine.view, number)}}, started)


@router.get(
    "/v1/items/{item_id}/related",
    response_model=ItemsResponse,
    summary="What goes with this one",
    openapi_extra={"parameters": [ITEM_ID_PARAMETER, *query_parameters(RelatedQuery)]},
)
def related_to_item(request: Request, live: LiveRelease) -> Response:
    """By the shop's own relations and what they imply: complements for who takes it, substitutes for who looks."""
    started = time.perf_counter()
    wanted, engine = read_query(request, RelatedQuery), live.engine
    item_id = unquote(request.path_params["item_id"])
    found = related(engine, item_id, wanted.k, wanted.relation, wanted.kind, wanted.filter)
    return respond(engine, answer(engine.view, found, wanted.fields), started)


@router.post("/v1/similar", response_model=ItemsResponse, summary="Items like several together")
def similar_to_items(wanted: SimilarRequest, live: LiveRelease) -> Response:
    """Neighbours of the given items' common direction."""
    started = time.perf_counter()
    engine = live.engine_for(wanted.user_id)
    spaces, personalization = [wanted.space] if wanted.space else (), personalization_of(live, wanted)
    found = engine.similar(wanted.item_ids, wanted.k, spaces, wanted.filter, personalization=personalization)
    return respond(engine, answer(engine.view, found, wanted.fields), started)


def personalization_of(live: ServiceRuntime, wanted: PersonalizedRequest) -> PersonalizationContext | None:
    """For whom a search is; None where the request does not say."""
    history = [event.model_dump() for event in wanted.history]
    return live.users.personalization(wanted.user_id, history, wanted.personal, wanted.explain)
