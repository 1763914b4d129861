"""The apps of the `http` benchmark: Vetrina's, and a minimal FastAPI app with FAISS that returns the same JSON."""

from typing import Any
from uuid import uuid4

import faiss
import numpy as np
from fastapi import FastAPI

from serve.core.fields import DEFAULT_FIELDS
from serve.core.settings import load_settings
from serve.engine.response import item_fields
from serve.http.app import create_app
from serve.release.repository import open_current
from serve.release.snapshot import Snapshot

settings = load_settings()
vetrina = create_app(settings)
minimal = FastAPI()
release = open_current(settings.store)
snapshot = Snapshot(release)
ids = release.catalogue.ids().to_pylist()
rows = {item_id: number for number, item_id in enumerate(ids)}
faiss.omp_set_num_threads(1)
fields = [item_fields(snapshot, number, DEFAULT_FIELDS) for number in range(len(ids))]
spaces: dict[str, Any] = dict(release.spaces)
indexes: dict[str, Any] = {}
for name, space in spaces.items():
    indexes[name] = faiss.IndexFlatIP(space.space.dim)
    indexes[name].add(np.ascontiguousarray(space.vectors))
ROWS_PER_ITEM = 4  # rows searched for each requested item, because an item may have several


@minimal.get("/v1/items/{item_id}/similar")
async def similar(item_id: str, k: int = 10, space: str | None = None) -> dict[str, Any]:
    own = rows[item_id]
    scores: dict[int, dict[str, float]] = {}
    for name in [space] if space else list(indexes):
        query = spaces[name].first_vectors(np.array([own]))
        owners = spaces[name].owners
        found_scores, found = indexes[name].search(query, ROWS_PER_ITEM * (k + 1))
        for number, score in zip(owners[found[0]].tolist(), found_scores[0].tolist(), strict=True):
            if number != own:
                scores.setdefault(number, {}).setdefault(name, score)
    best = sorted(scores, key=lambda number: -sum(scores[number].values()))[:k]
    items = [
        {
            "item_id": ids[number],
            "score": sum(scores[number].values()),
            "retriever_scores": scores[number],
            **fields[number],
        }
        for number in best
    ]
    return {"request_id": uuid4().hex, "release": release.name, "took_ms": 0.0, "items": items}
