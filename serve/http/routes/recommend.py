"""Routes that recommend: recommendations, candidates, ranking of an external list."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from fastapi import APIRouter, Response

from serve.core.metrics import RESPONSES
from serve.core.request_context import current
from serve.engine.engine import Engine
from serve.engine.hybrid_search import Hit
from serve.engine.recommend_engine import restrict_to_domains
from serve.engine.response import candidates_body, hits_body
from serve.engine.user_context import UserContext
from serve.http.request_parsing import LiveRelease, respond
from serve.live.runtime import ServiceRuntime
from serve.release.ab_test import CONTROL
from serve.schemas.recommend import (
    CandidatesRequest,
    CandidatesResponse,
    DomainRequest,
    RankRequest,
    RankResponse,
    RecommendRequest,
)
from serve.schemas.search import ItemsResponse
from serve.storage.impression_log import ShownItems

router = APIRouter(tags=["Recommend"])


@router.post(
    "/v1/recommend", response_model=ItemsResponse, operation_id="recommendItems", summary="Recommend items to a user"
)
def recommend(body: RecommendRequest, live: LiveRelease) -> Response:
    """Returns items that the user will probably want next, by all events until now."""
    started = time.perf_counter()
    engine, user = _user_context(live, body)
    bucket = CONTROL if body.user_id is None else live.bucket(body.user_id)
    RESPONSES.labels(engine.snapshot.release.name, bucket).inc()
    log = None
    if body.log:  # impressions of users who opted out of personalization are logged without their id
        logged_user = body.user_id if user.preferences.personal else None
        log = live.impression_logger(current().id, logged_user, engine)
    return respond(engine, hits_body(engine.snapshot, recommend_to(engine, user, body, log), body.fields), started)


def recommend_to(
    engine: Engine, user: UserContext, body: RecommendRequest, log: Callable[[ShownItems], None] | None = None
) -> Sequence[Hit]:
    """Recommend items.

    Args:
        engine: the engine to ask.
        user: events and preferences of the user.
        body: the request.
        log: called with the impressions.
    """
    return engine.recommend(
        user.events,
        body.k,
        [*user.excluded_items, *body.exclude],
        restrict_to_domains(body.filter, body.to),
        body.explain,
        body.diversity,
        body.explore if user.preferences.explore else False,
        user.preferences.blocked,
        log,
    )


@router.post("/v1/rank", response_model=RankResponse, operation_id="rankItems", summary="Rank items for a user")
def rank(body: RankRequest, live: LiveRelease) -> Response:
    """Sorts a list from another service. No item is excluded, except unknown ones, which are returned in `unknown`."""
    started = time.perf_counter()
    engine, user = _user_context(live, body)
    hits, unknown = engine.rank(user.events, body.item_ids, body.explain)
    return respond(engine, hits_body(engine.snapshot, hits, body.fields) | {"unknown": unknown}, started)


@router.post(
    "/v1/candidates",
    response_model=CandidatesResponse,
    operation_id="listCandidates",
    summary="List candidates for a user",
)
def candidates(body: CandidatesRequest, live: LiveRelease) -> Response:
    """Returns up to 5,000 items for an external ranker, with the score of every retriever. They are not reranked."""
    started = time.perf_counter()
    engine, user = _user_context(live, body)
    excluded = [*user.excluded_items, *body.exclude]
    conditions = restrict_to_domains(body.filter, body.to)
    found = engine.candidates(user.events, body.k, excluded, conditions, user.preferences.blocked)
    return respond(engine, {"items": candidates_body(engine.snapshot, found)}, started)


def _user_context(
    live: ServiceRuntime, body: RecommendRequest | RankRequest | CandidatesRequest
) -> tuple[Engine, UserContext]:
    """Return the engine for a user, and the events and preferences to recommend by."""
    history = [event.model_dump() for event in body.history]
    engine, user = live.engine_for(body.user_id), live.users.context(body.user_id, history)
    if isinstance(body, DomainRequest) and body.from_:
        user = replace(user, events=engine.events_in_domains(user.events, body.from_))
    return engine, user
