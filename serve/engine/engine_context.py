"""The context of searches and recommendations: a snapshot of the shop, its encoders, settings, rules and ranking."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Event
from serve.core.errors import NotFound
from serve.core.settings import Settings
from serve.engine.query_encoders import Encoders
from serve.recommend.ranking.category_calibration import CategoryCalibration
from serve.recommend.ranking.feature_builder import FeatureBuilder
from serve.recommend.ranking.merchandising_rules import ActiveRules, RulesFile
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.pipeline import RankingPipeline
from serve.recommend.ranking.quotas import LongTailQuota
from serve.recommend.retrieval.candidates import CandidateGenerator
from serve.recommend.retrieval.retriever import TOWER
from serve.recommend.retrieval.user_history import UserHistory
from serve.release.snapshot import Snapshot
from serve.search.filters import compile_filter


class EngineContext:
    """A snapshot, and the objects built from it once for all requests. Immutable; safe in several threads."""

    def __init__(
        self,
        snapshot: Snapshot,
        encoders: Encoders,
        settings: Settings,
        rules: RulesFile,
        online_head: OnlineHead | None = None,
    ) -> None:
        self.snapshot, self.encoders, self.settings = snapshot, encoders, settings
        self._rules, self._online_head = rules, online_head
        towers = {} if snapshot.tower is None else {TOWER: snapshot.tower}
        self.spaces = {**snapshot.spaces, **towers}
        self.space_weights = {space: settings.space_weights.get(space, 1.0) for space in self.spaces}

    def item_index(self, item_id: str, field: str = "item_id") -> int:
        """Return an item's index; raises NotFound, with the request's `field` that names the item."""
        item_index = self.snapshot.item_index(item_id)
        if item_index is None:
            message = f"item {item_id!r} does not exist in release {self.snapshot.release.name}"
            raise NotFound(message, field, "unknown_item")
        return item_index

    def known_items(self, item_ids: Sequence[str]) -> list[int]:
        """Return the item indices of those ids that exist."""
        return [item_index for item_id in item_ids if (item_index := self.snapshot.item_index(item_id)) is not None]

    def matching_items(self, filter_: Mapping[str, Any] | None) -> NDArray[np.int64]:
        """Return the indices of the items that pass a filter, in rising order; none for an empty filter."""
        compiled = compile_filter(filter_) if filter_ else None
        if compiled is None:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.snapshot.selection(compiled).mask)

    def user(self, events: Sequence[Event]) -> UserHistory:
        """Return a user's history by item index."""
        return UserHistory.from_events(events, self.snapshot.item_index, self.settings.signal)

    @cached_property
    def candidate_generator(self) -> CandidateGenerator:
        """Generates candidates by all retrievers with a positive weight."""
        snapshot, behaviour = self.snapshot, self.snapshot.release.behaviour
        score_model = behaviour.metadata.score_model.scaled(self.settings.retriever_weights)
        retrievers = behaviour.retrievers(
            self.spaces, snapshot.release.samples, self.space_weights, snapshot.index_mapping
        )
        used = {name: retriever for name, retriever in retrievers.items() if score_model.weights.get(name, 0) > 0}
        return CandidateGenerator(used, score_model, snapshot.items, snapshot.deleted)

    @cached_property
    def ranker(self) -> RankingPipeline:
        """Ranks this snapshot's items for a user."""
        snapshot, settings, behaviour = self.snapshot, self.settings, self.snapshot.release.behaviour
        builder = None
        if behaviour.scorer is not None:
            smoothing = behaviour.metadata.score_model.smoothing
            related = behaviour.scorer.metadata.related
            builder = FeatureBuilder(
                self.spaces, snapshot.signals_of, behaviour.covisitation, smoothing, snapshot.index_mapping, related
            )
        return RankingPipeline(
            self.candidate_generator,
            builder,
            behaviour.scorer,
            settings.head_values,
            settings.new_share,
            snapshot.spaces,
            self._margins if settings.margin_attribute else None,
            self._online_head,
            LongTailQuota.from_popularity(behaviour.popularity, settings.tail_share),
            CategoryCalibration(settings.calibration, self._categories) if settings.calibration else None,
        )

    def active_rules(self, now: float) -> ActiveRules | None:
        """Return the shop's rules over the items of this snapshot; None without rules."""
        rules, related = self._rules.current()
        if not rules:
            return None
        snapshot = self.snapshot
        first_seen = snapshot.release.behaviour.first_seen
        if snapshot.index_mapping is not None:
            to_release = snapshot.index_mapping.to_release
            first_seen = np.where(to_release >= 0, first_seen[to_release], np.nan)
            item_indices, updated_at = snapshot.updated
            first_seen[item_indices] = updated_at

        def mask(conditions: Mapping[str, Any]) -> NDArray[np.bool_]:
            compiled = compile_filter(conditions)
            return np.ones(snapshot.items, np.bool_) if compiled is None else snapshot.selection(compiled).mask

        def column(name: str, items: NDArray[np.int64]) -> list[str | None]:
            return [getattr(snapshot.item(item_index), name) for item_index in items.tolist()]

        return ActiveRules(rules, now, mask, column, first_seen, snapshot.item_index, snapshot.item_id, related)

    def _categories(self, item_indices: NDArray[np.int64]) -> list[str | None]:
        return [self.snapshot.item(item_index).category for item_index in item_indices.tolist()]

    def _margins(self, item_indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return each item's margin relative to the catalogue's mean margin; 1 where either is unknown."""
        name = self.settings.margin_attribute
        catalogue = self.snapshot.release.attribute_numbers(name)
        mean = float(np.nanmean(catalogue)) if (~np.isnan(catalogue)).any() else 0.0
        margins = self.snapshot.attribute_numbers(name, item_indices)
        is_unknown = np.isnan(margins) | (mean <= 0)
        return np.where(is_unknown, 1, np.maximum(margins, 0) / max(mean, 1e-9)).astype(np.float32)
