"""The engine: a question put to one view of the shop, answered with items, their scores and where these come from."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed.behaviour import Event
from embed.catalogue import is_blank
from embed.images import ImageLimits
from index.selection import Selection
from serve.core.errors import BadRequest, NotFound
from serve.core.request_context import stage
from serve.core.settings import Settings
from serve.engine.hybrid_search import DEPTH, Hit, HybridSearch, KeywordScores, rounded
from serve.engine.query import PART_WEIGHTS, Query, direction_of, query_vectors
from serve.engine.query_encoders import Encoders
from serve.engine.recall_monitor import RecallMonitor
from serve.engine.user_context import UserContext
from serve.recommend.ranking.exploration import Exploration
from serve.recommend.ranking.feature_builder import FeatureBuilder
from serve.recommend.ranking.merchandising_rules import ActiveRules, RulesFile, rules_file
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.pipeline import (
    MAX_SCORED,
    POOL,
    CategoryCalibration,
    LongTailQuota,
    Ranked,
    RankingPipeline,
)
from serve.recommend.retrieval.candidates import CandidateGenerator, Candidates
from serve.recommend.retrieval.retrievers import TOWER
from serve.recommend.retrieval.user_history import UserHistory
from serve.release.snapshot import Snapshot
from serve.search.facets import PRICE
from serve.search.filters import Filter, compile_filter
from serve.search.price_parser import parse_price_bounds
from serve.search.vocabulary import KEYWORDS
from serve.storage.impression_log import Display

RENAMED_SPACES = {"words": KEYWORDS}  # by 0.1


@dataclass(frozen=True)
class PersonalizationContext:
    """For whom a search is: what the shopper did, the latest last, and how much it counts that an item suits.

    `personal` is in standard deviations for each one of relevance (see Ranker.mixed); with `explain` each item comes
    with reasons. What passes the filter `blocked`, or is `excluded`, never comes out.
    """

    events: Sequence[Event]
    personal: float
    explain: bool = False
    blocked: Mapping[str, Any] = field(default_factory=dict)
    excluded: Sequence[str] = ()

    @classmethod
    def of(cls, known: UserContext, personal: float, explain: bool) -> "PersonalizationContext":
        """That of a shopper as known, preferences kept to."""
        return cls(known.events, personal, explain, known.preferences.blocked, known.preferences.blocked_items)


@dataclass(frozen=True)
class QueryInterpretation:
    """What a query was taken to say: the words to look for, the conditions in them, and what misspelled words mean."""

    text: str | None
    filter: Mapping[str, Any]
    corrected: Mapping[str, str]


class Engine:
    """Answers questions from one view. Holds no state between questions; safe in several threads."""

    def __init__(
        self,
        view: Snapshot,
        encoders: Encoders,
        settings: Settings,
        rules: RulesFile | None = None,
        online: OnlineHead | None = None,
        probe: RecallMonitor | None = None,
    ) -> None:
        self.view, self._probe = view, probe
        self._encoders = encoders
        self._limits: ImageLimits = settings.image_limits
        self._settings = settings
        self._rules = RulesFile(rules_file(settings)) if rules is None else rules
        self._online = online
        learned = view.release.manifest.fusion_weights
        self._source_weights = {
            source: settings.space_weights.get(source, 1.0)
            * (1.0 if learned is None else learned.weights.get(source, 1.0))
            for source in (*view.spaces, KEYWORDS)
        }
        # Which items are alike does not depend on what shoppers type.
        self._space_weights = {space: settings.space_weights.get(space, 1.0) for space in view.spaces}
        self._spaces = dict(view.spaces) | ({TOWER: view.tower} if view.tower is not None else {})

    def warm_up(self) -> None:
        """Ask one question of each kind, so that the first that anybody asks does not wait for what is read once."""
        first = self.view.text(0)
        with suppress(BadRequest, NotFound):  # no space may take words, and the first item may be gone
            self.search(Query(k=10, text="any"))
            self.similar([first], 10)
        self.recommend([], 10)

    def search(self, query: Query, personalization: PersonalizationContext | None = None) -> list[Hit]:
        """The k best items, best first; raises BadRequest where the query is empty or no space can take it.

        Encoders read words as they are meant, see `serve.search.vocabulary`. With a taste and a scorer, the most
        relevant
        are put in an order that suits the shopper too.
        """
        wanted = compile_filter(query.filter)
        vectors, words = self._sought(query)
        excluded = self._known([*query.exclude, *query.unlike, *query.like])
        return self._suited(vectors, query.k, excluded, wanted, personalization, words)

    def scores_by_retriever(self, text: str) -> dict[str, NDArray[np.float32]]:
        """How words score all items in each source that they enter, [items]; -inf for an item that is not in it."""
        vectors, words = self._sought(Query(k=1, text=text))
        scores = {space: self._spaces[space].scores_of_all(vector) for space, vector in vectors.items()}
        return scores if words is None or not words.found else {**scores, KEYWORDS: words.scores}

    def _sought(self, query: Query) -> tuple[dict[str, NDArray[np.float32]], KeywordScores | None]:
        """What a query is in each space that it enters, and by its words."""
        chosen = self._chosen_spaces(query.spaces, "spaces", (KEYWORDS,))
        words = None
        if KEYWORDS in chosen and query.text is not None and not is_blank(query.text):
            asked = self.view.release.words.ask(query.text)
            query = replace(query, text=asked.text)
            weight = (PART_WEIGHTS | dict(query.weights))["text"]
            weights = {**self._source_weights, KEYWORDS: self._source_weights[KEYWORDS] * weight}
            with stage("words"):
                words = KeywordScores(self.view.words_scores(asked), weights)
        spaces = [space for space in chosen if space != KEYWORDS]
        of_release, limits, by_words = self.view.release, self._limits, words is not None
        with stage("encode"):
            vectors = query_vectors(
                query, spaces, self._spaces, of_release, self._encoders, limits, self.item_index, by_words
            )
        return vectors, words

    def understand(self, query: Query, prices: bool = True) -> tuple[Query, QueryInterpretation]:
        """The query with what its words say of prices as a filter, if it has none, and how it was understood."""
        if query.text is None:
            return query, QueryInterpretation(None, {}, {})
        text = query.text
        conditions: dict[str, Any] = {}
        if prices and PRICE not in query.filter and self.view.release.has_prices:
            text, conditions = parse_price_bounds(query.text)
        asked = self.view.release.words.ask(text)
        understood = replace(query, text=text, filter={**query.filter, **conditions})
        return understood, QueryInterpretation(asked.text, conditions, dict(asked.corrected))

    def facets(self, query: Query, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """How many items have which value, by column or attribute, the most frequent first.

        Of those that pass the query's filter and hold as many of its words as any does. Raises BadRequest for a column
        that no item has.
        """
        wanted = compile_filter(query.filter)
        chosen = np.ones(self.view.items, np.bool_) if wanted is None else self.view.selection(wanted).mask.copy()
        chosen[self.view.deleted] = False
        if query.text is not None:
            held = self.view.words_held(self.view.release.words.ask(query.text)) * chosen
            chosen &= held == held.max(initial=0)
        return {name: self.view.facet(name, chosen) for name in names}

    def similar(
        self,
        item_ids: Sequence[str],
        k: int,
        spaces: Sequence[str] = (),
        filter_: Mapping[str, Any] | None = None,
        field_: str = "item_ids",
        personalization: PersonalizationContext | None = None,
    ) -> list[Hit]:
        """The k items most like the given ones, which are left out; `field_` is what the caller knows the ids by.

        With a taste as in `search`.
        """
        wanted = compile_filter(filter_) if filter_ else None
        item_indices = np.array([self.item_index(item_id, field_) for item_id in item_ids], np.int64)
        chosen = self._chosen_spaces(spaces, "space")
        vectors = {}
        for space in chosen:
            known = [vector for vector in self._spaces[space].vectors_of(item_indices) if vector.any()]
            if known and (direction := direction_of(known, [1.0] * len(known))) is not None:
                vectors[space] = direction
        return self._suited(vectors, k, item_indices.tolist(), wanted, personalization) if vectors else []

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
        log: Callable[[Display], None] | None = None,
    ) -> list[Hit]:
        """The k items that a shopper will want next, by what was done so far, the latest event last; none is fine.

        Without the items left out; unknown ones among them are no mistake. Always k where k pass the filter. Without
        `explore` the settings say how often to. What passes the filter `blocked` never comes out. `log` is given what
        is shown.
        """
        item_indices, allowed = self._excluded(excluded, filter_, blocked)
        user = self.user(events)
        now = time.time()
        exploration = self._exploration(explore)
        ranked = self.ranker.recommend(user, k, item_indices, now, allowed, diversity, self._acting(now), exploration)
        if log is not None:
            log(self._display(ranked, exploration))
        return self._answered(ranked, user, explain)

    def _exploration(self, wanted: bool | None) -> Exploration | None:
        random, settings = np.random.default_rng(), self._settings.explore
        if wanted is False or (wanted is None and random.random() >= settings.share):
            return None
        return Exploration(settings.policy, random, settings.temperature, settings.floor)

    def _display(self, ranked: Ranked, exploration: Exploration | None) -> Display:
        """What an answer shows, for the log."""
        count, scorer = len(ranked.found.items), self.view.release.behaviour.scorer
        inside, seen = self.ranker.shown(ranked), self.ranker.seen(ranked)
        return Display(
            items=[self.view.text(item_index) for item_index in ranked.found.items.tolist()],
            scorer=scorer.fingerprint if scorer is not None and ranked.scores is not None else "",
            policy="best" if exploration is None or ranked.propensities is None else exploration.policy,
            scores=ranked.found.total if ranked.scores is None else ranked.scores.total,
            propensities=np.ones(count, np.float32) if ranked.propensities is None else ranked.propensities,
            **({} if inside is None else {"hidden": inside[0], "probabilities": inside[1]}),
            features=None if seen is None else seen[0],
        )

    def rank(
        self, events: Sequence[Event], item_ids: Sequence[str], explain: bool = False
    ) -> tuple[list[Hit], list[str]]:
        """Items from elsewhere, in the order that suits a shopper, and the ids of those that are not there."""
        item_indices = {item_id: self.view.item_index(item_id) for item_id in item_ids}
        known = np.unique(
            np.array([item_index for item_index in item_indices.values() if item_index is not None], np.int64)
        )
        user = self.user(events)
        found = self._answered(self.ranker.rank(user, known, time.time()), user, explain)
        return found, [item_id for item_id, item_index in item_indices.items() if item_index is None]

    def candidates(
        self,
        events: Sequence[Event],
        k: int,
        excluded: Sequence[str] = (),
        filter_: Mapping[str, Any] | None = None,
        blocked: Mapping[str, Any] | None = None,
    ) -> Candidates:
        """The k best by the blend of all sources, under the items' numbers, and with who proposed what."""
        item_indices, allowed = self._excluded(excluded, filter_, blocked)
        return self._recommender.recommend(self.user(events), k, item_indices, allowed)

    def _answered(self, ranked: Ranked, user: UserHistory, explain: bool) -> list[Hit]:
        """What was ranked, as an answer has it."""
        found = _found(ranked)
        if ranked.rules:
            found = [one._replace(rules=ranked.rules.get(one.item_index, ())) for one in found]
        if not explain:
            return found
        reasons = self.ranker.explain(ranked, user, self.view.text, self._title)
        return [one._replace(reasons=of) for one, of in zip(found, reasons, strict=True)]

    def _title(self, item_id: str) -> str:
        return self.view.item(self.item_index(item_id)).title or item_id

    def _excluded(
        self, excluded: Sequence[str], filter_: Mapping[str, Any] | None, blocked: Mapping[str, Any] | None
    ) -> tuple[NDArray[np.int64], Selection | None]:
        """What must not be recommended, and what may be where not everything else may."""
        conditions = dict(filter_ or {})
        if not self._settings.recommend_unavailable:
            conditions.setdefault("available", True)
        wanted = compile_filter(conditions)
        allowed = None if wanted is None else self.view.selection(wanted)
        if allowed is not None and allowed.count == self.view.items - len(self.view.deleted):
            allowed = None  # everything there is: searching needs no filter
        return np.union1d(np.array(self._known(excluded), np.int64), self._blocked(blocked)), allowed

    def _blocked(self, blocked: Mapping[str, Any] | None) -> NDArray[np.int64]:
        """The items that a filter names, in rising order."""
        named = compile_filter(blocked) if blocked else None
        return np.empty(0, np.int64) if named is None else np.flatnonzero(self.view.selection(named).mask)

    def done_in(self, events: Sequence[Event], domains: Sequence[str]) -> list[Event]:
        """The events of some domains; those that do not say where are of their item's."""
        return [event for event in events if (event.domain or self._domain(event.item_id)) in domains]

    def _domain(self, item_id: str) -> str | None:
        item_index = self.view.item_index(item_id)
        return None if item_index is None else self.view.item(item_index).domain

    def user(self, events: Sequence[Event]) -> UserHistory:
        """What the events say of a shopper, under the items' numbers."""
        return UserHistory.from_events(events, self.view.item_index, self._settings.signal)

    def _acting(self, now: float) -> ActiveRules | None:
        """The shop's rules over the items of this view, if there are any."""
        rules, related = self._rules.current()
        if not rules:
            return None
        view, behaviour = self.view, self.view.release.behaviour
        seen = behaviour.first_seen
        if view.numbering is not None:
            before = view.numbering.before
            seen = np.where(before >= 0, seen[before], np.nan)
            item_indices, updated = view.updated
            seen[item_indices] = updated

        def mask_of(conditions: Mapping[str, Any]) -> NDArray[np.bool_]:
            wanted = compile_filter(conditions)
            return np.ones(view.items, np.bool_) if wanted is None else view.selection(wanted).mask

        def column(name: str, items: NDArray[np.int64]) -> list[str | None]:
            return [getattr(view.item(item_index), name) for item_index in items.tolist()]

        return ActiveRules(rules, now, mask_of, column, seen, view.item_index, view.text, related)

    @cached_property
    def ranker(self) -> RankingPipeline:
        """What puts this view's items in order for a shopper."""
        view, behaviour = self.view, self.view.release.behaviour
        maker = None
        if behaviour.scorer is not None:
            smoothing = behaviour.facts.score_model.smoothing
            related = behaviour.scorer.facts.related
            maker = FeatureBuilder(
                self._spaces, view.signals_of, behaviour.covisitation, smoothing, view.numbering, related
            )
        return RankingPipeline(
            self._recommender,
            maker,
            behaviour.scorer,
            self._settings.head_values,
            self._settings.new_share,
            view.spaces,
            self._margins if self._settings.margin_attribute else None,
            self._online,
            LongTailQuota.of(behaviour.popularity, self._settings.tail_share),
            CategoryCalibration(self._settings.calibration, self._categories) if self._settings.calibration else None,
        )

    def _categories(self, item_indices: NDArray[np.int64]) -> list[str | None]:
        return [self.view.item(item_index).category for item_index in item_indices.tolist()]

    def _margins(self, item_indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """What a purchase of each item leaves the shop, beside the mean over the catalogue; 1 where it is not known."""
        name = self._settings.margin_attribute
        known = self.view.release.attribute_numbers(name)
        mean = float(np.nanmean(known)) if (~np.isnan(known)).any() else 0.0
        of = self.view.attribute_numbers(name, item_indices)
        return np.where(np.isnan(of) | (mean <= 0), 1, np.maximum(of, 0) / max(mean, 1e-9)).astype(np.float32)

    @cached_property
    def _hybrid_search(self) -> HybridSearch:
        return HybridSearch(self.view, self._spaces, self._space_weights, self._probe)

    @cached_property
    def _recommender(self) -> CandidateGenerator:
        view, behaviour = self.view, self.view.release.behaviour
        score_model = behaviour.facts.score_model.scaled(self._settings.retriever_weights)
        sources = behaviour.retrievers(self._spaces, view.release.samples, self._space_weights, view.numbering)
        wanted = {name: source for name, source in sources.items() if score_model.weights.get(name, 0) > 0}
        return CandidateGenerator(wanted, score_model, view.items, view.deleted)

    def item_index(self, item_id: str, field_: str = "item_id") -> int:
        """An item's number; raises NotFound naming the id."""
        item_index = self.view.item_index(item_id)
        if item_index is None:
            raise NotFound(f"there is no item {item_id!r} in release {self.view.release.name}", field_, "unknown_item")
        return item_index

    def _suited(
        self,
        vectors: Mapping[str, NDArray[np.float32]],
        k: int,
        excluded: Sequence[int],
        filter_: Filter | None,
        personalization: PersonalizationContext | None,
        words: KeywordScores | None = None,
    ) -> list[Hit]:
        """What is found, where there is a taste in an order that suits it too."""
        if personalization is not None:
            excluded = [
                *excluded,
                *self._known(personalization.excluded),
                *self._blocked(personalization.blocked).tolist(),
            ]
        allowed = None if filter_ is None else self.view.selection(filter_)
        if personalization is None or self.view.release.behaviour.scorer is None:
            with stage("search"):
                return self._hybrid_search.find(vectors, words, k, excluded, allowed)
        depth = max(k, min(MAX_SCORED, max(DEPTH, POOL * k)))
        with stage("search"):
            relevant = self._hybrid_search.find(vectors, words, depth, excluded, allowed)
        item_indices = np.array([one.item_index for one in relevant], np.int64)
        relevance = np.array([one.score for one in relevant], np.float32)
        if words is not None and not vectors:  # it is BM25
            relevance /= max(float(words.scores[words.scores > -np.inf].std()), 1e-6)
        elif words is None and len(vectors) == 1:  # of one space it is a cosine
            (space, vector), *_ = vectors.items()
            relevance /= max(float((self.view.release.samples[space] @ vector).std()), 1e-6)
        user = self.user(personalization.events)
        ranked = (
            self.ranker.mixed(user, item_indices, relevance, personalization.personal, k, time.time())
            if relevant
            else None
        )
        if ranked is None:
            return relevant[:k]
        by_number = {one.item_index: one for one in relevant}
        return [
            one._replace(
                retriever_scores=by_number[one.item_index].retriever_scores, image=by_number[one.item_index].image
            )
            for one in self._answered(ranked, user, personalization.explain)
        ]

    def _known(self, item_ids: Sequence[str]) -> list[int]:
        return [item_index for item_id in item_ids if (item_index := self.view.item_index(item_id)) is not None]

    def _chosen_spaces(self, wanted: Sequence[str], field_: str, more: Sequence[str] = ()) -> list[str]:
        known = [*self._spaces, *more]
        wanted = [RENAMED_SPACES.get(space, space) for space in wanted]
        for space in wanted:
            if space not in known:
                raise BadRequest(f"there is no space {space!r}: this release has {', '.join(known)}", field_)
        return list(wanted or [*self.view.spaces, *more])


def in_domains(filter_: Mapping[str, Any], domains: Sequence[str]) -> Mapping[str, Any]:
    """A filter for items of some domains only, if any are given; raises BadRequest where it has its own."""
    if not domains:
        return filter_
    if "domain" in filter_:
        raise BadRequest("to and a filter on domain both say where items come from: give one of them", "to")
    return {**filter_, "domain": {"in": list(domains)}}


def _found(ranked: Ranked) -> list[Hit]:
    """What was ranked, as an answer has it."""
    found, scores = ranked.found, ranked.scores
    totals, sources = rounded(found.total), _by_row(found.scores, len(found.items))
    listed = [Hit(*each, None) for each in zip(found.items.tolist(), totals, sources, strict=True)]
    if scores is None:
        return listed
    probabilities, expected = _by_row(scores.heads, len(listed)), rounded(scores.total)
    return [
        one if math.isnan(score) else one._replace(score=score, probabilities=of)
        for one, score, of in zip(listed, expected, probabilities, strict=True)
    ]


def _by_row(columns: Mapping[str, NDArray[np.float32]], rows: int) -> list[dict[str, float]]:
    if not columns:
        return [{} for _ in range(rows)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*map(rounded, columns.values()), strict=True)]
