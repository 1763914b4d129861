"""What goes with an item: by the shop's own relations, by what they imply, and by what the items look and read like."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.exact import top
from serve.core.errors import BadRequest
from serve.engine.engine import Engine
from serve.engine.hybrid_search import Hit, rounded
from serve.recommend.retrieval.relation_graph import kind_of
from serve.release.snapshot import Snapshot
from serve.search.filters import compile_filter
from serve.search.fusion import fuse

LINKED = 4.0  # what a link counts, beside the logarithm of what categories imply and content in standard deviations


def related(
    engine: Engine,
    item_id: str,
    k: int,
    relation: str | None = None,
    kind: str | None = None,
    filter_: Mapping[str, Any] | None = None,
) -> list[Hit]:
    """The k items that stand best in a relation to one, or in any of a kind, best first; linked ones before others.

    `sources` has for each relation how well an item is linked, and its content's likeness. Raises BadRequest where the
    release knows no such relation, NotFound where there is no such item.
    """
    view = engine.view
    item_index = engine.item_index(item_id)
    knowledge = view.release.behaviour.knowledge
    known = [] if knowledge is None else knowledge.relations
    chosen = [name for name in known if relation in (None, name) and kind in (None, kind_of(name))]
    if knowledge is None or not chosen:
        field, wanted = ("relation", relation) if relation else ("kind", kind or "any")
        raise BadRequest(f"this release knows no relation {wanted!r}: it has {', '.join(known) or 'none'}", field)
    before = item_index if view.numbering is None else int(view.numbering.before[item_index])
    links, implied = {name: np.zeros(view.items, np.float32) for name in chosen}, np.zeros(view.items, np.float32)
    if before >= 0:  # else it came live, and only its content is known
        links = {name: _as_now(view, *knowledge.linked(name, before)) for name in chosen}
        of_category = np.max([knowledge.implied(name, before) for name in chosen], axis=0)
        implied = _as_now(view, np.arange(len(of_category)), of_category)
    content = _content(view, item_index)
    total = content + implied + LINKED * np.max(list(links.values()), axis=0)
    total[[item_index, *view.deleted.tolist()]] = -np.inf
    if filter_ and (wanted_filter := compile_filter(filter_)) is not None:
        total[~view.selection(wanted_filter).mask] = -np.inf
    best = top(total.astype(np.float32), view.everything, k)
    columns = {"content": content, **links}
    sources = zip(*(rounded(of[best].astype(np.float32)) for of in columns.values()), strict=True)
    told = [
        {name: score for name, score in zip(columns, each, strict=True) if name == "content" or score}
        for each in sources
    ]
    return list(map(Hit, best.tolist(), rounded(total[best].astype(np.float32)), told, [None] * len(best)))


def _as_now(view: Snapshot, items: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores of items as the release numbers them, for all items as the view does, [items]; 0 for the others."""
    now = items if view.numbering is None else view.numbering.now[items]
    found = np.zeros(view.items, np.float32)
    found[now[now >= 0]] = scores[now >= 0]
    return found


def _content(view: Snapshot, item_index: int) -> NDArray[np.float32]:
    """How alike each item is, [items], in standard deviations above all."""
    scores = {}
    for space, index in view.spaces.items():
        vector = index.vectors_of(np.array([item_index]))[0]
        if vector.any():
            scores[space] = index.scores_of_all(vector)
    if not scores:
        return np.zeros(view.items, np.float32)
    found = fuse(scores, scores, dict.fromkeys(scores, 1.0))
    return np.where(found == -np.inf, 0, found).astype(np.float32)
