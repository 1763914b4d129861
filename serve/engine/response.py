"""From found items to what a caller reads: ids, scores, and the catalogue's fields."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from dataclasses import fields as fields_of
from typing import Any
from uuid import uuid4

from embed.catalogue import Item
from serve.core.fields import DEFAULT_FIELDS
from serve.core.request_context import stage
from serve.engine.engine import Engine, PersonalizationContext
from serve.engine.hybrid_search import Hit
from serve.engine.query import Query
from serve.recommend.retrieval.candidates import Candidates
from serve.release.snapshot import Snapshot

FIELDS = [field.name for field in fields_of(Item) if field.name != "item_id"]


def ask(engine: Engine, question: Callable[[Engine], Sequence[Hit]]) -> dict[str, Any]:
    """A question put to an engine in this process; the answer is the object that the HTTP service gives."""
    return respond(engine, lambda: answer(engine.view, question(engine), DEFAULT_FIELDS))


def respond(engine: Engine, body: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """An answer as the HTTP service gives it, made in this process."""
    started = time.perf_counter()
    made = body()
    took = round((time.perf_counter() - started) * 1000, 3)
    return {"request_id": uuid4().hex, "release": engine.view.release.name, "took_ms": took} | made


def answer_search(
    engine: Engine,
    query: Query,
    personalization: PersonalizationContext | None,
    fields: Sequence[str] = DEFAULT_FIELDS,
    understand: bool = True,
    facets: Sequence[str] = (),
) -> dict[str, Any]:
    """A search's answer: its items, how its words were understood, and the facets that were asked for."""
    query, understood = engine.understand(query, prices=understand)
    found = answer(engine.view, engine.search(query, personalization), fields)
    return found | {"understood": asdict(understood), "facets": engine.facets(query, facets) if facets else {}}


def answer(view: Snapshot, found: Sequence[Hit], fields: Sequence[str]) -> dict[str, Any]:
    """The answer's items, with the wanted catalogue fields; `image` is the one that matched best, if any did."""
    with stage("answer"):
        items = _items(view, found, fields)
    return {
        "ranked_by": "scorer" if any(one.probabilities is not None for one in found) else "retrievers",
        "items": items,
    }


def _items(view: Snapshot, found: Sequence[Hit], fields: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "item_id": view.text(one.item_index),
            "score": one.score,
            "retriever_scores": one.retriever_scores,
            **({} if one.probabilities is None else {"probabilities": one.probabilities}),
            **({} if one.reasons is None else {"reasons": one.reasons}),
            **({"rules": list(one.rules)} if one.rules else {}),
            **item_fields(view, one.item_index, fields, one.image),
        }
        for one in found
    ]


def answer_candidates(view: Snapshot, found: Candidates) -> list[dict[str, Any]]:
    """The answer's candidates: blended score, score by source, and the sources that proposed each."""
    scores = {source: of.astype(float).round(4).tolist() for source, of in found.scores.items()}
    proposed = {source: of.tolist() for source, of in found.proposed.items()}
    return [
        {
            "item_id": view.text(item_index),
            "score": total,
            "retriever_scores": {retriever: of[place] for retriever, of in scores.items()},
            "proposed_by": [source for source, of in proposed.items() if of[place]],
        }
        for place, (item_index, total) in enumerate(
            zip(found.items.tolist(), found.total.astype(float).round(4).tolist(), strict=True)
        )
    ]


def item_fields(
    view: Snapshot, item_index: int, fields: Sequence[str] | None = None, image: int | None = None
) -> dict[str, Any]:
    """Catalogue fields of one item, all of them without `fields`."""
    item = view.item(item_index)
    values = {name: getattr(item, name) for name in (FIELDS if fields is None else fields) if name != "image"}
    if fields is None or "image" in fields:
        values["image"] = item.images[image or 0] if item.images else None
    return values
