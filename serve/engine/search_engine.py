"""Search and similar items: by text, photo and example items, personalized where the user is known."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.catalogue import is_blank
from serve.core.errors import BadRequest
from serve.core.request_context import stage
from serve.engine.engine_context import EngineContext
from serve.engine.hybrid_search import MIN_DEPTH, Hit, HybridSearch, KeywordScores
from serve.engine.query import PART_WEIGHTS, Query, query_vectors, weighted_direction
from serve.engine.ranked_hits import ranked_hits
from serve.engine.recall_monitor import RecallMonitor
from serve.engine.user_context import PersonalizationContext
from serve.recommend.ranking.ranking_stage import MAX_SCORED, POOL
from serve.search.facets import PRICE
from serve.search.filters import Filter, compile_filter
from serve.search.price_parser import parse_price_bounds
from serve.search.vocabulary import KEYWORDS

RENAMED_SPACES = {"words": KEYWORDS}  # names that version 0.1 used


@dataclass(frozen=True)
class QueryInterpretation:
    """How a query's text was interpreted: the text to search for, the filter that it states, and corrected words."""

    text: str | None
    filter: Mapping[str, Any]
    corrected: Mapping[str, str]


class SearchEngine:
    """Searches one snapshot. Keeps no state between requests; safe in several threads."""

    def __init__(self, context: EngineContext, recall_monitor: RecallMonitor | None = None) -> None:
        self._context, self._snapshot = context, context.snapshot
        self._hybrid_search = HybridSearch(self._snapshot, context.spaces, context.space_weights, recall_monitor)
        learned = self._snapshot.release.manifest.fusion_weights
        # Similar items do not use the learned weights: those are learned from typed queries.
        self.query_weights = {
            name: weight * (1.0 if learned is None else learned.weights.get(name, 1.0))
            for name, weight in {
                **context.space_weights,
                KEYWORDS: context.settings.space_weights.get(KEYWORDS, 1.0),
            }.items()
        }

    def search(self, query: Query, personalization: PersonalizationContext | None = None) -> list[Hit]:
        """Return the k best items, best first.

        Misspelled words are corrected, see `serve.search.vocabulary`. With a personalization context and a scorer, the
        most relevant items are ordered for the user too. Raises BadRequest where the query is empty or no space takes
        it, Unavailable where only servers that do not respond could encode it.
        """
        filter_ = compile_filter(query.filter)
        vectors, keywords = self._encode(query)
        excluded = self._context.known_items([*query.exclude, *query.unlike, *query.like])
        return self._find(vectors, query.k, excluded, filter_, personalization, keywords)

    def similar(
        self,
        item_ids: Sequence[str],
        k: int,
        spaces: Sequence[str] = (),
        filter_: Mapping[str, Any] | None = None,
        field: str = "item_ids",
        personalization: PersonalizationContext | None = None,
    ) -> list[Hit]:
        """Return the k items most similar to given items, without these.

        Args:
            item_ids: the items to compare with.
            k: how many items to return.
            spaces: the spaces to compare in; by default all content spaces.
            filter_: only items that pass this filter are returned.
            field: the request field that has the ids, for errors.
            personalization: as in `search`.
        """
        compiled = compile_filter(filter_) if filter_ else None
        item_indices = np.array([self._context.item_index(item_id, field) for item_id in item_ids], np.int64)
        vectors = {}
        for space in self._chosen_spaces(spaces, "space"):
            known = [vector for vector in self._context.spaces[space].first_vectors(item_indices) if vector.any()]
            if known and (direction := weighted_direction(known, [1.0] * len(known))) is not None:
                vectors[space] = direction
        return self._find(vectors, k, item_indices.tolist(), compiled, personalization) if vectors else []

    def understand(self, query: Query, prices: bool = True) -> tuple[Query, QueryInterpretation]:
        """Return the query as interpreted: price bounds in its text become a filter, unless it filters by price."""
        if query.text is None:
            return query, QueryInterpretation(None, {}, {})
        text = query.text
        conditions: dict[str, Any] = {}
        if prices and PRICE not in query.filter and self._snapshot.release.has_prices:
            text, conditions = parse_price_bounds(query.text)
        parsed = self._snapshot.release.words.parse(text)
        understood = replace(query, text=text, filter={**query.filter, **conditions})
        return understood, QueryInterpretation(parsed.text, conditions, dict(parsed.corrected))

    def facets(self, query: Query, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Count the values of columns or attributes, the most frequent value first.

        Items count that pass the query's filter and contain as many of its words as any item does. Raises BadRequest
        for a column that no item has.
        """
        filter_ = compile_filter(query.filter)
        chosen = np.ones(self._snapshot.items, np.bool_)
        if filter_ is not None:
            chosen = self._snapshot.selection(filter_).mask.copy()
        chosen[self._snapshot.deleted] = False
        if query.text is not None:
            contained = self._snapshot.count_matched_words(self._snapshot.release.words.parse(query.text)) * chosen
            chosen &= contained == contained.max(initial=0)
        return {name: self._snapshot.facet(name, chosen) for name in names}

    def scores_by_retriever(self, text: str) -> dict[str, NDArray[np.float32]]:
        """Return how a text scores all items in each space and by keywords, [items]; -inf for items without a score."""
        vectors, keywords = self._encode(Query(k=1, text=text), needs_all=True)
        scores = {space: self._context.spaces[space].score_all_items(vector) for space, vector in vectors.items()}
        return scores if keywords is None or not keywords.has_matches else {**scores, KEYWORDS: keywords.scores}

    def _encode(
        self, query: Query, needs_all: bool = False
    ) -> tuple[dict[str, NDArray[np.float32]], KeywordScores | None]:
        """Return the query's vector in each space that it enters, and the keyword scores of its text.

        With `needs_all`, no space is left out because its encoder is unavailable.
        """
        chosen = self._chosen_spaces(query.spaces, "spaces", (KEYWORDS,))
        keywords = None
        if KEYWORDS in chosen and query.text is not None and not is_blank(query.text):
            parsed = self._snapshot.release.words.parse(query.text)
            query = replace(query, text=parsed.text)
            weight = (PART_WEIGHTS | dict(query.weights))["text"]
            weights = {**self.query_weights, KEYWORDS: self.query_weights[KEYWORDS] * weight}
            with stage("keywords"):
                keywords = KeywordScores(self._snapshot.keyword_scores(parsed), weights)
        spaces = [space for space in chosen if space != KEYWORDS]
        with stage("encode"):
            vectors = query_vectors(self._context, query, spaces, keywords is not None, needs_all)
        return vectors, keywords

    def _find(
        self,
        vectors: Mapping[str, NDArray[np.float32]],
        k: int,
        excluded: Sequence[int],
        filter_: Filter | None,
        personalization: PersonalizationContext | None,
        keywords: KeywordScores | None = None,
    ) -> list[Hit]:
        """Return the k best items, ordered for the user too where there is a personalization context and a scorer."""
        context = self._context
        if personalization is not None:
            blocked = context.matching_items(personalization.blocked).tolist()
            excluded = [*excluded, *context.known_items(personalization.excluded_items), *blocked]
        allowed = None if filter_ is None else self._snapshot.selection(filter_)
        if personalization is None or self._snapshot.release.behaviour.scorer is None:
            with stage("search"):
                return self._hybrid_search.find(vectors, keywords, k, excluded, allowed)
        depth = max(k, min(MAX_SCORED, max(MIN_DEPTH, POOL * k)))
        with stage("search"):
            relevant = self._hybrid_search.find(vectors, keywords, depth, excluded, allowed)
        if not relevant:
            return []
        item_indices = np.array([hit.item_index for hit in relevant], np.int64)
        relevance = self._standardised(np.array([hit.score for hit in relevant], np.float32), vectors, keywords)
        user = context.user(personalization.events)
        ranked = context.ranker.personalize(user, item_indices, relevance, personalization.strength, k, time.time())
        if ranked is None:
            return relevant[:k]
        by_item = {hit.item_index: hit for hit in relevant}
        hits = ranked_hits(context, ranked, user, personalization.explain)
        return [
            hit._replace(retriever_scores=by_item[hit.item_index].retriever_scores, image=by_item[hit.item_index].image)
            for hit in hits
        ]

    def _standardised(
        self,
        relevance: NDArray[np.float32],
        vectors: Mapping[str, NDArray[np.float32]],
        keywords: KeywordScores | None,
    ) -> NDArray[np.float32]:
        """Return scores of hits [m] in standard deviations over the catalogue; fused scores are so already."""
        if keywords is not None and not vectors:  # BM25
            return relevance / max(float(keywords.scores[keywords.scores > -np.inf].std()), 1e-6)
        if keywords is None and len(vectors) == 1:  # cosines of a single space
            ((space, vector),) = vectors.items()
            return relevance / max(float((self._snapshot.release.samples[space] @ vector).std()), 1e-6)
        return relevance

    def _chosen_spaces(self, requested: Sequence[str], field: str, others: Sequence[str] = ()) -> list[str]:
        """Return the requested spaces, by default all content spaces and `others`; raises BadRequest for another."""
        known = [*self._context.spaces, *others]
        requested = [RENAMED_SPACES.get(space, space) for space in requested]
        for space in requested:
            if space not in known:
                raise BadRequest(f"unknown space {space!r}: this release has {', '.join(known)}", field)
        return list(requested or [*self._snapshot.spaces, *others])
