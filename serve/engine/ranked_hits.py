"""Turns ranked items into hits."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from serve.engine.engine_context import EngineContext
from serve.engine.hybrid_search import Hit, rounded
from serve.recommend.ranking.ranked_candidates import RankedCandidates
from serve.recommend.retrieval.user_history import UserHistory


def ranked_hits(context: EngineContext, ranked: RankedCandidates, user: UserHistory, explain: bool) -> list[Hit]:
    """Return ranked items as hits, with the rules that changed their rank.

    Args:
        context: the snapshot that the items are of.
        ranked: the ranked items.
        user: the history of the user that they are ranked for.
        explain: whether each item gets reasons.
    """
    hits = _scored_hits(ranked)
    if ranked.rules:
        hits = [hit._replace(rules=ranked.rules.get(hit.item_index, ())) for hit in hits]
    if not explain:
        return hits

    def title(item_id: str) -> str:
        return context.snapshot.item(context.item_index(item_id)).title or item_id

    reasons = context.ranker.explain(ranked, user, context.snapshot.item_id, title)
    return [hit._replace(reasons=why) for hit, why in zip(hits, reasons, strict=True)]


def _scored_hits(ranked: RankedCandidates) -> list[Hit]:
    candidates, output = ranked.candidates, ranked.output
    totals, by_retriever = rounded(candidates.total), _by_row(candidates.scores, len(candidates.items))
    hits = [Hit(*each, None) for each in zip(candidates.items.tolist(), totals, by_retriever, strict=True)]
    if output is None:
        return hits
    probabilities, expected = _by_row(output.heads, len(hits)), rounded(output.total)
    return [
        hit if math.isnan(score) else hit._replace(score=score, probabilities=of_heads)
        for hit, score, of_heads in zip(hits, expected, probabilities, strict=True)
    ]


def _by_row(columns: Mapping[str, NDArray[np.float32]], rows: int) -> list[dict[str, float]]:
    if not columns:
        return [{} for _ in range(rows)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*map(rounded, columns.values()), strict=True)]
