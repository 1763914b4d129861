"""Routes that search: by query, by example items, by relations; and autocompletion."""

import time
from urllib.parse import unquote

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from serve.engine.query import Query
from serve.engine.related_items import related_items
from serve.engine.response import hits_body, search_body
from serve.engine.user_context import PersonalizationContext
from serve.http.openapi import NOT_FOUND
from serve.http.request_parsing import (
    FORM_SCHEMA,
    ITEM_ID_PARAMETER,
    TRACEPARENT_PARAMETER,
    LiveRelease,
    get_live,
    query_parameters,
    read_query,
    read_search,
    respond,
)
from serve.live.runtime import ServiceRuntime
from serve.schemas.search import (
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

router = APIRouter(tags=["Search"])


@router.get(
    "/v1/items/{item_id}/similar",
    response_model=ItemsResponse,
    operation_id="getSimilarItems",
    summary="Find items similar to one",
    responses=NOT_FOUND,
    openapi_extra={"parameters": [ITEM_ID_PARAMETER, *query_parameters(NeighboursQuery)]},
)
async def get_similar_items(request: Request) -> Response:
    """Returns the neighbours of an item in one space, or fused over all spaces."""
    started = time.perf_counter()
    # The busiest route is the first, as routes are matched in order, and parses its query itself, as FastAPI's own
    # parsing takes as long as the search.
    query = read_query(request, NeighboursQuery)
    live = await get_live(request)
    engine, spaces, item_ids = (
        live.engine_for(query.user_id),
        [query.space] if query.space else (),
        [unquote(request.path_params["item_id"])],
    )
    if query.user_id is None:
        hits = engine.similar(item_ids, query.k, spaces, query.filter, "item_id")
    else:  # in a thread, as it reads events and scores
        hits = await run_in_threadpool(
            lambda: engine.similar(
                item_ids,
                query.k,
                spaces,
                query.filter,
                "item_id",
                live.users.personalization(query.user_id, (), query.personalization, query.explain),
            )
        )
    return respond(engine, hits_body(engine.snapshot, hits, query.fields), started)


@router.post(
    "/v1/search",
    response_model=SearchResponse,
    operation_id="searchItems",
    summary="Search items",
    responses=NOT_FOUND,
    openapi_extra={
        "parameters": [TRACEPARENT_PARAMETER],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/SearchRequest"}},
                "multipart/form-data": {"schema": FORM_SCHEMA},
            },
        },
    },
)
async def search(request: Request, live: LiveRelease) -> Response:
    """Searches by text, photo and example items, and fuses the results.

    Text is searched in every space with a text encoder and by keywords (BM25). A photo is searched in the image space,
    example items in all spaces.
    """
    started = time.perf_counter()
    body = await read_search(request)
    engine, query = live.engine_for(body.user_id), build_query(body)
    # Encoding takes milliseconds of compute: in a thread, so that the event loop serves other requests meanwhile.
    content = await run_in_threadpool(
        lambda: search_body(engine, query, personalize(live, body), body.fields, body.understand, body.facets)
    )
    return respond(engine, content, started)


def build_query(body: SearchRequest) -> Query:
    """Build the engine's query from a search request."""
    return Query(
        k=body.k,
        text=body.text,
        image=body.image,
        like=body.like,
        unlike=body.unlike,
        weights=body.weights.model_dump(),
        exclude=body.exclude,
        spaces=body.spaces,
        filter=body.filter,
    )


@router.get(
    "/v1/suggest",
    response_model=SuggestResponse,
    operation_id="autocompleteQuery",
    summary="Autocomplete a query",
    openapi_extra={"parameters": query_parameters(SuggestQuery)},
)
async def suggest(request: Request, live: LiveRelease) -> Response:
    """Returns phrases of titles, and queries of at least three users. Corrects spelling mistakes."""
    started = time.perf_counter()
    query, engine = read_query(request, SuggestQuery), live.engine
    return respond(engine, {"suggestions": engine.snapshot.suggest(query.q, query.k)}, started)


@router.get(
    "/v1/items/{item_id}/related",
    response_model=ItemsResponse,
    operation_id="getRelatedItems",
    summary="Find items related to one",
    responses=NOT_FOUND,
    openapi_extra={"parameters": [ITEM_ID_PARAMETER, *query_parameters(RelatedQuery)]},
)
def get_related_items(request: Request, live: LiveRelease) -> Response:
    """Returns complementary items and substitutes, by the shop's own relations and what they imply."""
    started = time.perf_counter()
    query, engine = read_query(request, RelatedQuery), live.engine
    item_id = unquote(request.path_params["item_id"])
    hits = related_items(engine, item_id, query.k, query.relation, query.kind, query.filter)
    return respond(engine, hits_body(engine.snapshot, hits, query.fields), started)


@router.post(
    "/v1/similar",
    response_model=ItemsResponse,
    operation_id="similarItems",
    summary="Find items similar to several",
    responses=NOT_FOUND,
)
def similar_items(body: SimilarRequest, live: LiveRelease) -> Response:
    """Returns the neighbours of the mean direction of the items."""
    started = time.perf_counter()
    engine = live.engine_for(body.user_id)
    spaces, personalization = [body.space] if body.space else (), personalize(live, body)
    hits = engine.similar(body.item_ids, body.k, spaces, body.filter, personalization=personalization)
    return respond(engine, hits_body(engine.snapshot, hits, body.fields), started)


def personalize(live: ServiceRuntime, body: PersonalizedRequest) -> PersonalizationContext | None:
    """Return how to personalize a search; None if the request names neither a user nor a history."""
    history = [event.model_dump() for event in body.history]
    return live.users.personalization(body.user_id, history, body.personalization, body.explain)
