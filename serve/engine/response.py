"""Response bodies: hits and candidates with ids, scores and catalogue fields."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from dataclasses import fields as fields_of
from typing import Any
from uuid import uuid4

from embed.catalogue import Item
from serve.core.fields import DEFAULT_FIELDS
from serve.core.request_context import RequestContext, begin_request, stage
from serve.engine.engine import Engine
from serve.engine.hybrid_search import Hit
from serve.engine.query import Query
from serve.engine.user_context import PersonalizationContext
from serve.recommend.retrieval.candidates import Candidates
from serve.release.snapshot import Snapshot

FIELDS = [field.name for field in fields_of(Item) if field.name != "item_id"]


def local_hits_response(engine: Engine, find: Callable[[Engine], Sequence[Hit]]) -> dict[str, Any]:
    """Return the response of the HTTP service for the hits of an engine in this process."""
    return local_response(engine, lambda: hits_body(engine.snapshot, find(engine), DEFAULT_FIELDS))


def local_response(engine: Engine, make_body: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a response of the HTTP service, made in this process."""
    context = RequestContext(uuid4().hex)
    begin_request(context)
    started = time.perf_counter()
    body = make_body()
    took = round((time.perf_counter() - started) * 1000, 3)
    partial = {"partial": context.partial} if context.partial else {}
    return {"request_id": context.id, "release": engine.snapshot.release.name, "took_ms": took} | partial | body


def search_body(
    engine: Engine,
    query: Query,
    personalization: PersonalizationContext | None,
    fields: Sequence[str] = DEFAULT_FIELDS,
    understand: bool = True,
    facets: Sequence[str] = (),
) -> dict[str, Any]:
    """Search, and return the body of the response.

    Args:
        engine: the engine to search.
        query: the query.
        personalization: how the search is personalized, if it is.
        fields: the catalogue fields of each item.
        understand: whether price bounds in the text become a filter.
        facets: the columns or attributes whose values are counted.
    """
    query, understood = engine.understand(query, prices=understand)
    body = hits_body(engine.snapshot, engine.search(query, personalization), fields)
    return body | {"understood": asdict(understood), "facets": engine.facets(query, facets) if facets else {}}


def hits_body(snapshot: Snapshot, hits: Sequence[Hit], fields: Sequence[str]) -> dict[str, Any]:
    """Return hits as the body of a response; an item's `image` is the one that matches best, else its first one."""
    with stage("response"):
        items = [_hit_body(snapshot, hit, fields) for hit in hits]
    return {
        "ranked_by": "scorer" if any(hit.probabilities is not None for hit in hits) else "retrievers",
        "items": items,
    }


def _hit_body(snapshot: Snapshot, hit: Hit, fields: Sequence[str]) -> dict[str, Any]:
    return {
        "item_id": snapshot.item_id(hit.item_index),
        "score": hit.score,
        "retriever_scores": hit.retriever_scores,
        **({} if hit.probabilities is None else {"probabilities": hit.probabilities}),
        **({} if hit.reasons is None else {"reasons": hit.reasons}),
        **({"rules": list(hit.rules)} if hit.rules else {}),
        **item_fields(snapshot, hit.item_index, fields, hit.image),
    }


def candidates_body(snapshot: Snapshot, candidates: Candidates) -> list[dict[str, Any]]:
    """Return candidates as in a response: total score, score by retriever, and the retrievers that proposed each."""
    scores = {name: of_items.astype(float).round(4).tolist() for name, of_items in candidates.scores.items()}
    proposed = {name: of_items.tolist() for name, of_items in candidates.proposed.items()}
    totals = candidates.total.astype(float).round(4).tolist()
    return [
        {
            "item_id": snapshot.item_id(item_index),
            "score": total,
            "retriever_scores": {name: of_items[position] for name, of_items in scores.items()},
            "proposed_by": [name for name, of_items in proposed.items() if of_items[position]],
        }
        for position, (item_index, total) in enumerate(zip(candidates.items.tolist(), totals, strict=True))
    ]


def item_fields(
    snapshot: Snapshot, item_index: int, fields: Sequence[str] | None = None, image: int | None = None
) -> dict[str, Any]:
    """Return catalogue fields of an item.

    Args:
        snapshot: the snapshot that the item is of.
        item_index: the item.
        fields: the names of the fields; by default all.
        image: the position of the image to return; by default the first.
    """
    item = snapshot.item(item_index)
    values = {name: getattr(item, name) for name in (FIELDS if fields is None else fields) if name != "image"}
    if fields is None or "image" in fields:
        values["image"] = item.images[image or 0] if item.images else None
    return values
