"""Routes that recommend: recommendations, candidates, ranking of an external list."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from fastapi import APIRouter, Response

from serve.core.metrics import ANSWERS
from serve.core.request_context import current
from serve.engine.engine import Engine, in_domains
from serve.engine.hybrid_search import Hit
from serve.engine.response import answer, answer_candidates
from serve.engine.user_context import UserContext
from serve.http.request_parsing import (
    LiveRelease,
    respond,
)
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
from serve.schemas.search import (
    ItemsResponse,
)
from serve.storage.impression_log import Display

router = APIRouter()


@router.post("/v1/recommend", response_model=ItemsResponse, summary="What a shopper will want next")
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
    engine: Engine, known: UserContext, wanted: RecommendRequest, log: Callable[[Display], None] | None = None
) -> Sequence[Hit]:
    """What a shopper of whom this is known will want next; `log` is given what is shown."""
    return engine.recommend(
        known.events,
        wanted.k,
        [*known.excluded, *wanted.exclude],
        in_domains(wanted.filter, wanted.to),
        wanted.explain,
        wanted.diversity,
        wanted.explore if known.preferences.explore else False,
        known.preferences.blocked,
        log,
    )


@router.post("/v1/rank", response_model=RankResponse, summary="Items from elsewhere, in a shopper's order")
def rank(wanted: RankRequest, live: LiveRelease) -> Response:
    """For lists that another service made. Nothing is left out but what is not there, which is named."""
    started = time.perf_counter()
    engine, known = _known(live, wanted)
    found, unknown = engine.rank(known.events, wanted.item_ids, wanted.explain)
    return respond(engine, answer(engine.view, found, wanted.fields) | {"unknown": unknown}, started)


@router.post("/v1/candidates", response_model=CandidatesResponse, summary="Candidates for another service")
def candidates(wanted: CandidatesRequest, live: LiveRelease) -> Response:
    """Up to thousands, with their score in each source and who proposed them."""
    started = time.perf_counter()
    engine, known = _known(live, wanted)
    excluded = [*known.excluded, *wanted.exclude]
    conditions = in_domains(wanted.filter, wanted.to)
    found = engine.candidates(known.events, wanted.k, excluded, conditions, known.preferences.blocked)
    return respond(engine, {"items": answer_candidates(engine.view, found)}, started)


def _known(
    live: ServiceRuntime, wanted: RecommendRequest | RankRequest | CandidatesRequest
) -> tuple[Engine, UserContext]:
    """The engine that answers a shopper, and what it goes by."""
    history = [event.model_dump() for event in wanted.history]
    engine, known = live.engine_for(wanted.user_id), live.users.known(wanted.user_id, history)
    if isinstance(wanted, DomainRequest) and wanted.from_:
        known = replace(known, events=engine.done_in(known.events, wanted.from_))
    return engine, known
