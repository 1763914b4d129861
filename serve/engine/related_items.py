"""Related items: by the shop's own relations, by those that categories imply, and by similar content."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.top_k import top_k
from serve.core.errors import BadRequest
from serve.engine.engine import Engine
from serve.engine.hybrid_search import Hit, rounded
from serve.recommend.retrieval.relation_graph import relation_kind
from serve.release.snapshot import Snapshot
from serve.search.filters import compile_filter
from serve.search.fusion import fuse

LINK_WEIGHT = 4.0  # beside the logarithm of what categories imply, and content in standard deviations


def related_items(
    engine: Engine,
    item_id: str,
    k: int,
    relation: str | None = None,
    kind: str | None = None,
    filter_: Mapping[str, Any] | None = None,
) -> list[Hit]:
    """Return the k items most related to an item, best first; linked items come first.

    The `retriever_scores` of a hit are its similar content, and the strength of its links by relation.

    Args:
        engine: the engine over the snapshot.
        item_id: the item.
        k: how many items to return.
        relation: only this relation; by default any.
        kind: only relations of this kind; by default any.
        filter_: only items that pass this filter are returned.

    Raises:
        BadRequest: the release has no such relation.
        NotFound: the item does not exist.
    """
    snapshot = engine.snapshot
    item_index = engine.item_index(item_id)
    graph = snapshot.release.behaviour.knowledge
    relations = [] if graph is None else graph.relations
    chosen = [name for name in relations if relation in (None, name) and kind in (None, relation_kind(name))]
    if graph is None or not chosen:
        field, value = ("relation", relation) if relation else ("kind", kind or "any")
        raise BadRequest(f"unknown {field} {value!r}: this release has {', '.join(relations) or 'no relations'}", field)
    built_index = item_index if snapshot.index_mapping is None else int(snapshot.index_mapping.to_release[item_index])
    links, implied = (
        {name: np.zeros(snapshot.items, np.float32) for name in chosen},
        np.zeros(snapshot.items, np.float32),
    )
    if built_index >= 0:  # otherwise the item was added live, and only its content is known
        links = {name: _renumbered(snapshot, *graph.linked(name, built_index)) for name in chosen}
        by_category = np.max([graph.implied(name, built_index) for name in chosen], axis=0)
        implied = _renumbered(snapshot, np.arange(len(by_category)), by_category)
    content = _content_scores(snapshot, item_index)
    total = content + implied + LINK_WEIGHT * np.max(list(links.values()), axis=0)
    total[[item_index, *snapshot.deleted.tolist()]] = -np.inf
    if filter_ and (compiled := compile_filter(filter_)) is not None:
        total[~snapshot.selection(compiled).mask] = -np.inf
    best = top_k(total.astype(np.float32), snapshot.everything, k)
    columns = {"content": content, **links}
    rows = zip(*(rounded(scores[best].astype(np.float32)) for scores in columns.values()), strict=True)
    retriever_scores = [
        {name: score for name, score in zip(columns, row, strict=True) if name == "content" or score} for row in rows
    ]
    totals = rounded(total[best].astype(np.float32))
    return list(map(Hit, best.tolist(), totals, retriever_scores, [None] * len(best)))


def _renumbered(
    snapshot: Snapshot, item_indices: NDArray[np.int64], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return scores of items by the release's indices as scores of all items of the snapshot, [items]; else 0."""
    now = item_indices if snapshot.index_mapping is None else snapshot.index_mapping.to_snapshot[item_indices]
    all_scores = np.zeros(snapshot.items, np.float32)
    all_scores[now[now >= 0]] = scores[now >= 0]
    return all_scores


def _content_scores(snapshot: Snapshot, item_index: int) -> NDArray[np.float32]:
    """Return how similar the content of all items is, [items], in standard deviations."""
    scores = {}
    for space, index in snapshot.spaces.items():
        vector = index.first_vectors(np.array([item_index]))[0]
        if vector.any():
            scores[space] = index.score_all_items(vector)
    if not scores:
        return np.zeros(snapshot.items, np.float32)
    fused = fuse(scores, scores, dict.fromkeys(scores, 1.0))
    return np.where(fused == -np.inf, 0, fused).astype(np.float32)
