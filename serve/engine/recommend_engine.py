"""Recommendations: items for a user, items of the caller ranked for a user, and candidates for other services."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Event
from index.item_mask import ItemMask
from serve.core.errors import BadRequest
from serve.engine.engine_context import EngineContext
from serve.engine.hybrid_search import Hit
from serve.engine.ranked_hits import ranked_hits
from serve.recommend.ranking.exploration import Exploration
from serve.recommend.ranking.ranked_candidates import RankedCandidates
from serve.recommend.retrieval.candidates import Candidates
from serve.search.filters import compile_filter
from serve.storage.impression_log import ShownItems


class RecommendEngine:
    """Recommends items of one snapshot. Keeps no state between requests; safe in several threads."""

    def __init__(self, context: EngineContext) -> None:
        self._context, self._snapshot, self._settings = context, context.snapshot, context.settings

    def recommend(
        self,
        events: Sequence[Event],
        k: int,
        excluded: Sequence[str] = (),
        filter_: Mapping[str, Any] | None = None,
        explain: bool = False,
        diversity: float = 0.0,
        explore: bool | None = None,
        blocked: Mapping[str, Any] | None = None,
        log: Callable[[ShownItems], None] | None = None,
    ) -> list[Hit]:
        """Return the k items that a user most likely wants next; k items whenever k items pass the filter.

        Args:
            events: the user's events, the latest last; may be empty.
            k: how many items to return.
            excluded: ids of items that are not returned; unknown ids are ignored.
            filter_: only items that pass this filter are returned.
            explain: whether each item gets reasons.
            diversity: 0 to 1, how much it counts that the items differ.
            explore: whether to explore; by default as often as the settings say.
            blocked: items that pass this filter are not returned.
            log: called with the items shown.
        """
        item_indices, allowed = self._restrictions(excluded, filter_, blocked)
        user, now = self._context.user(events), time.time()
        exploration = self._exploration(explore)
        rules = self._context.active_rules(now)
        ranked = self._context.ranker.recommend(user, k, item_indices, now, allowed, diversity, rules, exploration)
        if log is not None:
            log(self._shown_items(ranked, exploration))
        return ranked_hits(self._context, ranked, user, explain)

    def rank(
        self, events: Sequence[Event], item_ids: Sequence[str], explain: bool = False
    ) -> tuple[list[Hit], list[str]]:
        """Return the caller's items ranked for a user, and the ids that do not exist."""
        item_indices = {item_id: self._snapshot.item_index(item_id) for item_id in item_ids}
        known = [item_index for item_index in item_indices.values() if item_index is not None]
        user = self._context.user(events)
        ranked = self._context.ranker.rank(user, np.unique(np.array(known, np.int64)), time.time())
        unknown = [item_id for item_id, item_index in item_indices.items() if item_index is None]
        return ranked_hits(self._context, ranked, user, explain), unknown

    def candidates(
        self,
        events: Sequence[Event],
        k: int,
        excluded: Sequence[str] = (),
        filter_: Mapping[str, Any] | None = None,
        blocked: Mapping[str, Any] | None = None,
    ) -> Candidates:
        """Return the k best candidates by the linear score model, with their scores by retriever.

        Args:
            events: the user's events, the latest last; may be empty.
            k: how many candidates to return.
            excluded: ids of items that are not returned; unknown ids are ignored.
            filter_: only items that pass this filter are returned.
            blocked: items that pass this filter are not returned.
        """
        item_indices, allowed = self._restrictions(excluded, filter_, blocked)
        return self._context.candidate_generator.recommend(self._context.user(events), k, item_indices, allowed)

    def events_in_domains(self, events: Sequence[Event], domains: Sequence[str]) -> list[Event]:
        """Return the events of some domains; an event without a domain has that of its item."""
        return [event for event in events if (event.domain or self._item_domain(event.item_id)) in domains]

    def _item_domain(self, item_id: str) -> str | None:
        item_index = self._snapshot.item_index(item_id)
        return None if item_index is None else self._snapshot.item(item_index).domain

    def _restrictions(
        self, excluded: Sequence[str], filter_: Mapping[str, Any] | None, blocked: Mapping[str, Any] | None
    ) -> tuple[NDArray[np.int64], ItemMask | None]:
        """Return the excluded item indices, and the allowed items; None where all items are allowed."""
        conditions = dict(filter_ or {})
        if not self._settings.recommend_unavailable:
            conditions.setdefault("available", True)
        compiled = compile_filter(conditions)
        allowed = None if compiled is None else self._snapshot.selection(compiled)
        if allowed is not None and allowed.count == self._snapshot.items - len(self._snapshot.deleted):
            allowed = None  # every item passes: searching needs no filter
        known = np.array(self._context.known_items(excluded), np.int64)
        return np.union1d(known, self._context.matching_items(blocked)), allowed

    def _exploration(self, explore: bool | None) -> Exploration | None:
        random, settings = np.random.default_rng(), self._settings.explore
        if explore is False or (explore is None and random.random() >= settings.share):
            return None
        return Exploration(settings.policy, random, settings.temperature, settings.min_relative_score)

    def _shown_items(self, ranked: RankedCandidates, exploration: Exploration | None) -> ShownItems:
        """Return the items that a response shows, for the impression log."""
        count, scorer = len(ranked.items), self._snapshot.release.behaviour.scorer
        inside, features = self._context.ranker.predict_shown(ranked), ranked.scored_features()
        return ShownItems(
            items=[self._snapshot.item_id(item_index) for item_index in ranked.items.tolist()],
            scorer=scorer.fingerprint if scorer is not None and ranked.output is not None else "",
            policy="best" if exploration is None or ranked.propensities is None else exploration.policy,
            scores=ranked.candidates.total if ranked.output is None else ranked.output.total,
            propensities=np.ones(count, np.float32) if ranked.propensities is None else ranked.propensities,
            **({} if inside is None else {"hidden": inside[0], "probabilities": inside[1]}),
            features=None if features is None else features.values,
        )


def restrict_to_domains(filter_: Mapping[str, Any], domains: Sequence[str]) -> Mapping[str, Any]:
    """Return a filter for items of some domains, if any; raises BadRequest where the filter names domains itself."""
    if not domains:
        return filter_
    if "domain" in filter_:
        raise BadRequest("'to' and the filter both restrict the domain: remove one of them", "to")
    return {**filter_, "domain": {"in": list(domains)}}
