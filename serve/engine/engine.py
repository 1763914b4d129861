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
from serve.engine.hybrid_search import DEPTH, ByWords, Finder, Found, rounded
from serve.engine.query import PART_WEIGHTS, Query, direction_of, query_vectors
from serve.engine.query_encoders import Encoders
from serve.engine.recall_monitor import RecallProbe
from serve.engine.user_context import Known
from serve.recommend.ranking.exploration import Exploration
from serve.recommend.ranking.feature_builder import FeatureMaker
from serve.recommend.ranking.merchandising_rules import Acting, RuleBook, rules_file
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.pipeline import MOST_SCORED, POOL, OwnMix, Ranked, Ranker, Tail
from serve.recommend.retrieval.candidates import Candidates, Recommender
from serve.recommend.retrieval.retrievers import TOWER
from serve.recommend.retrieval.user_history import Shopper
from serve.release.snapshot import View
from serve.search.facets import PRICE
from serve.search.filters import Filter, compile_filter
from serve.search.price_parser import meant_by
from serve.search.vocabulary import WORDS
from serve.storage.impression_log import Display


@dataclass(frozen=True)
class Taste:
    """For whom a search is: what the shopper did, the latest last, and how much it counts that an item suits.

    `personal` is in standard deviations for each one of relevance (see Ranker.mixed); with `explain` each item comes
    with reasons. What passes the filter `blocked`, or is `left_out`, never comes out.
    """

    events: Sequence[Event]
    personal: float
    explain: bool = False
    blocked: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[str] = ()

    @classmethod
    def of(cls, known: Known, personal: float, explain: bool) -> "Taste":
        """That of a shopper as known, preferences kept to."""
        return cls(known.events, personal, explain, known.preferences.blocked, known.preferences.blocked_items)


@dataclass(frozen=True)
class Understood:
    """What a query was taken to say: the words to look for, the conditions in them, and what misspelled words mean."""

    text: str | None
    filter: Mapping[str, Any]
    corrected: Mapping[str, str]


class Engine:
    """Answers questions from one view. Holds no state between questions; safe in several threads."""

    def __init__(
        self,
        view: View,
        encoders: Encoders,
        settings: Settings,
        rules: RuleBook | None = None,
        online: OnlineHead | None = None,
        probe: RecallProbe | None = None,
    ) -> None:
        self.view, self._probe = view, probe
        self._encoders = encoders
        self._limits: ImageLimits = settings.image_limits
        self._settings = settings
        self._rules = RuleBook(rules_file(settings)) if rules is None else rules
        self._online = online
        learned = view.release.manifest.weighed
        self._source_weights = {
            source: settings.space_weights.get(source, 1.0)
            * (1.0 if learned is None else learned.weights.get(source, 1.0))
            for source in (*view.spaces, WORDS)
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

    def search(self, query: Query, taste: Taste | None = None) -> list[Found]:
        """The k best items, best first; raises BadRequest where the query is empty or no space can take it.

        Encoders read words as they are meant, see `serve.search.vocabulary`. With a taste and a scorer, the most
        relevant
        are put in an order that suits the shopper too.
        """
        wanted = compile_filter(query.filter)
        vectors, words = self._sought(query)
        left_out = self._known([*query.exclude, *query.unlike, *query.like])
        return self._suited(vectors, query.k, left_out, wanted, taste, words)

    def scores_by_source(self, text: str) -> dict[str, NDArray[np.float32]]:
        """How words score all items in each source that they enter, [items]; -inf for an item that is not in it."""
        vectors, words = self._sought(Query(k=1, text=text))
        scores = {space: self._spaces[space].scores_of_all(vector) for space, vector in vectors.items()}
        return scores if words is None or not words.found else {**scores, WORDS: words.scores}

    def _sought(self, query: Query) -> tuple[dict[str, NDArray[np.float32]], ByWords | None]:
        """What a query is in each space that it enters, and by its words."""
        chosen = self._chosen_spaces(query.spaces, "spaces", (WORDS,))
        words = None
        if WORDS in chosen and query.text is not None and not is_blank(query.text):
            asked = self.view.release.words.ask(query.text)
            query = replace(query, text=asked.text)
            weight = (PART_WEIGHTS | dict(query.weights))["text"]
            weights = {**self._source_weights, WORDS: self._source_weights[WORDS] * weight}
            with stage("words"):
                words = ByWords(self.view.words_scores(asked), weights)
        spaces = [space for space in chosen if space != WORDS]
        of_release, limits, by_words = self.view.release, self._limits, words is not None
        with stage("encode"):
            vectors = query_vectors(
                query, spaces, self._spaces, of_release, self._encoders, limits, self.number, by_words
            )
        return vectors, words

    def understand(self, query: Query, prices: bool = True) -> tuple[Query, Understood]:
        """The query with what its words say of prices as a filter, if it has none, and how it was understood."""
        if query.text is None:
            return query, Understood(None, {}, {})
        text = query.text
        conditions: dict[str, Any] = {}
        if prices and PRICE not in query.filter and self.view.release.has_prices:
            text, conditions = meant_by(query.text)
        asked = self.view.release.words.ask(text)
        understood = replace(query, text=text, filter={**query.filter, **conditions})
        return understood, Understood(asked.text, conditions, dict(asked.corrected))

    def facets(self, query: Query, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """How many items have which value, by column or attribute, the most frequent first.

        Of those that pass the query's filter and hold as many of its words as any does. Raises BadRequest for a column
        that no item has.
        """
        wanted = compile_filter(query.filter)
        chosen = np.ones(self.view.items, np.bool_) if wanted is None else self.view.selection(wanted).mask.copy()
        chosen[self.view.gone] = False
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
        taste: Taste | None = None,
    ) -> list[Found]:
        """The k items most like the given ones, which are left out; `field_` is what the caller knows the ids by.

        With a taste as in `search`.
        """
        wanted = compile_filter(filter_) if filter_ else None
        numbers = np.array([self.number(item_id, field_) for item_id in item_ids], np.int64)
        chosen = self._chosen_spaces(spaces, "space")
        vectors = {}
        for space in chosen:
            known = [vector for vector in self._spaces[space].vectors_of(numbers) if vector.any()]
            if known and (direction := direction_of(known, [1.0] * len(known))) is not None:
                vectors[space] = direction
        return self._suited(vectors, k, numbers.tolist(), wanted, taste) if vectors else []

    def recommend(
        self,
        events: Sequence[Event],
        k: int,
        left_out: Sequence[str] = (),
        filter_: Mapping[str, Any] | None = None,
        explain: bool = False,
        diversity: float = 0.0,
        explore: bool | None = None,
        blocked: Mapping[str, Any] | None = None,
        log: Callable[[Display], None] | None = None,
    ) -> list[Found]:
        """The k items that a shopper will want next, by what was done so far, the latest event last; none is fine.

        Without the items left out; unknown ones among them are no mistake. Always k where k pass the filter. Without
        `explore` the settings say how often to. What passes the filter `blocked` never comes out. `log` is given what
        is shown.
        """
        numbers, allowed = self._barred(left_out, filter_, blocked)
        shopper = self.shopper(events)
        now = time.time()
        exploration = self._exploration(explore)
        ranked = self.ranker.recommend(shopper, k, numbers, now, allowed, diversity, self._acting(now), exploration)
        if log is not None:
            log(self._display(ranked, exploration))
        return self._answered(ranked, shopper, explain)

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
            items=[self.view.text(number) for number in ranked.found.items.tolist()],
            scorer=scorer.fingerprint if scorer is not None and ranked.scores is not None else "",
            policy="best" if exploration is None or ranked.propensities is None else exploration.policy,
            scores=ranked.found.total if ranked.scores is None else ranked.scores.total,
            propensities=np.ones(count, np.float32) if ranked.propensities is None else ranked.propensities,
            **({} if inside is None else {"hidden": inside[0], "chances": inside[1]}),
            features=None if seen is None else seen[0],
        )

    def rank(
        self, events: Sequence[Event], item_ids: Sequence[str], explain: bool = False
    ) -> tuple[list[Found], list[str]]:
        """Items from elsewhere, in the order that suits a shopper, and the ids of those that are not there."""
        numbers = {item_id: self.view.number(item_id) for item_id in item_ids}
        known = np.unique(np.array([number for number in numbers.values() if number is not None], np.int64))
        shopper = self.shopper(events)
        found = self._answered(self.ranker.rank(shopper, known, time.time()), shopper, explain)
        return found, [item_id for item_id, number in numbers.items() if number is None]

    def candidates(
        self,
        events: Sequence[Event],
        k: int,
        left_out: Sequence[str] = (),
        filter_: Mapping[str, Any] | None = None,
        blocked: Mapping[str, Any] | None = None,
    ) -> Candidates:
        """The k best by the blend of all sources, under the items' numbers, and with who proposed what."""
        numbers, allowed = self._barred(left_out, filter_, blocked)
        return self._recommender.recommend(self.shopper(events), k, numbers, allowed)

    def _answered(self, ranked: Ranked, shopper: Shopper, explain: bool) -> list[Found]:
        """What was ranked, as an answer has it."""
        found = _found(ranked)
        if ranked.rules:
            found = [one._replace(rules=ranked.rules.get(one.number, ())) for one in found]
        if not explain:
            return found
        reasons = self.ranker.explain(ranked, shopper, self.view.text, self._title)
        return [one._replace(reasons=of) for one, of in zip(found, reasons, strict=True)]

    def _title(self, item_id: str) -> str:
        return self.view.item(self.number(item_id)).title or item_id

    def _barred(
        self, left_out: Sequence[str], filter_: Mapping[str, Any] | None, blocked: Mapping[str, Any] | None
    ) -> tuple[NDArray[np.int64], Selection | None]:
        """What must not be recommended, and what may be where not everything else may."""
        conditions = dict(filter_ or {})
        if not self._settings.recommend_unavailable:
            conditions.setdefault("available", True)
        wanted = compile_filter(conditions)
        allowed = None if wanted is None else self.view.selection(wanted)
        if allowed is not None and allowed.count == self.view.items - len(self.view.gone):
            allowed = None  # everything there is: searching needs no filter
        return np.union1d(np.array(self._known(left_out), np.int64), self._blocked(blocked)), allowed

    def _blocked(self, blocked: Mapping[str, Any] | None) -> NDArray[np.int64]:
        """The items that a filter names, in rising order."""
        named = compile_filter(blocked) if blocked else None
        return np.empty(0, np.int64) if named is None else np.flatnonzero(self.view.selection(named).mask)

    def done_in(self, events: Sequence[Event], domains: Sequence[str]) -> list[Event]:
        """The events of some domains; those that do not say where are of their item's."""
        return [event for event in events if (event.domain or self._domain(event.item_id)) in domains]

    def _domain(self, item_id: str) -> str | None:
        number = self.view.number(item_id)
        return None if number is None else self.view.item(number).domain

    def shopper(self, events: Sequence[Event]) -> Shopper:
        """What the events say of a shopper, under the items' numbers."""
        return Shopper.from_events(events, self.view.number, self._settings.signal)

    def _acting(self, now: float) -> Acting | None:
        """The shop's rules over the items of this view, if there are any."""
        rules, related = self._rules.current()
        if not rules:
            return None
        view, behaviour = self.view, self.view.release.behaviour
        seen = behaviour.first_seen
        if view.numbering is not None:
            before = view.numbering.before
            seen = np.where(before >= 0, seen[before], np.nan)
            numbers, updated = view.updated
            seen[numbers] = updated

        def mask_of(conditions: Mapping[str, Any]) -> NDArray[np.bool_]:
            wanted = compile_filter(conditions)
            return np.ones(view.items, np.bool_) if wanted is None else view.selection(wanted).mask

        def column(name: str, items: NDArray[np.int64]) -> list[str | None]:
            return [getattr(view.item(number), name) for number in items.tolist()]

        return Acting(rules, now, mask_of, column, seen, view.number, view.text, related)

    @cached_property
    def ranker(self) -> Ranker:
        """What puts this view's items in order for a shopper."""
        view, behaviour = self.view, self.view.release.behaviour
        maker = None
        if behaviour.scorer is not None:
            floors = behaviour.facts.blend.floors
            related = behaviour.scorer.facts.related
            maker = FeatureMaker(self._spaces, view.facts_of, behaviour.covisitation, floors, view.numbering, related)
        return Ranker(
            self._recommender,
            maker,
            behaviour.scorer,
            self._settings.head_values,
            self._settings.new_share,
            view.spaces,
            self._margins if self._settings.margin_attribute else None,
            self._online,
            Tail.of(behaviour.popularity, self._settings.tail_share),
            OwnMix(self._settings.calibration, self._categories) if self._settings.calibration else None,
        )

    def _categories(self, numbers: NDArray[np.int64]) -> list[str | None]:
        return [self.view.item(number).category for number in numbers.tolist()]

    def _margins(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """What a purchase of each item leaves the shop, beside the mean over the catalogue; 1 where it is not known."""
        name = self._settings.margin_attribute
        known = self.view.release.attribute_numbers(name)
        mean = float(np.nanmean(known)) if (~np.isnan(known)).any() else 0.0
        of = self.view.attribute_numbers(name, numbers)
        return np.where(np.isnan(of) | (mean <= 0), 1, np.maximum(of, 0) / max(mean, 1e-9)).astype(np.float32)

    @cached_property
    def _finder(self) -> Finder:
        return Finder(self.view, self._spaces, self._space_weights, self._probe)

    @cached_property
    def _recommender(self) -> Recommender:
        view, behaviour = self.view, self.view.release.behaviour
        blend = behaviour.facts.blend.scaled(self._settings.source_weights)
        sources = behaviour.sources(self._spaces, view.release.samples, self._space_weights, view.numbering)
        wanted = {name: source for name, source in sources.items() if blend.weights.get(name, 0) > 0}
        return Recommender(wanted, blend, view.items, view.gone)

    def number(self, item_id: str, field_: str = "item_id") -> int:
        """An item's number; raises NotFound naming the id."""
        number = self.view.number(item_id)
        if number is None:
            raise NotFound(f"there is no item {item_id!r} in release {self.view.release.name}", field_, "unknown_item")
        return number

    def _suited(
        self,
        vectors: Mapping[str, NDArray[np.float32]],
        k: int,
        left_out: Sequence[int],
        filter_: Filter | None,
        taste: Taste | None,
        words: ByWords | None = None,
    ) -> list[Found]:
        """What is found, where there is a taste in an order that suits it too."""
        if taste is not None:
            left_out = [*left_out, *self._known(taste.left_out), *self._blocked(taste.blocked).tolist()]
        allowed = None if filter_ is None else self.view.selection(filter_)
        if taste is None or self.view.release.behaviour.scorer is None:
            with stage("search"):
                return self._finder.find(vectors, words, k, left_out, allowed)
        depth = max(k, min(MOST_SCORED, max(DEPTH, POOL * k)))
        with stage("search"):
            relevant = self._finder.find(vectors, words, depth, left_out, allowed)
        numbers = np.array([one.number for one in relevant], np.int64)
        relevance = np.array([one.score for one in relevant], np.float32)
        if words is not None and not vectors:  # it is BM25
            relevance /= max(float(words.scores[words.scores > -np.inf].std()), 1e-6)
        elif words is None and len(vectors) == 1:  # of one space it is a cosine
            (space, vector), *_ = vectors.items()
            relevance /= max(float((self.view.release.samples[space] @ vector).std()), 1e-6)
        shopper = self.shopper(taste.events)
        ranked = self.ranker.mixed(shopper, numbers, relevance, taste.personal, k, time.time()) if relevant else None
        if ranked is None:
            return relevant[:k]
        by_number = {one.number: one for one in relevant}
        return [
            one._replace(sources=by_number[one.number].sources, image=by_number[one.number].image)
            for one in self._answered(ranked, shopper, taste.explain)
        ]

    def _known(self, item_ids: Sequence[str]) -> list[int]:
        return [number for item_id in item_ids if (number := self.view.number(item_id)) is not None]

    def _chosen_spaces(self, wanted: Sequence[str], field_: str, more: Sequence[str] = ()) -> list[str]:
        known = [*self._spaces, *more]
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


def _found(ranked: Ranked) -> list[Found]:
    """What was ranked, as an answer has it."""
    found, scores = ranked.found, ranked.scores
    totals, sources = rounded(found.total), _by_row(found.scores, len(found.items))
    listed = [Found(*each, None) for each in zip(found.items.tolist(), totals, sources, strict=True)]
    if scores is None:
        return listed
    chances, expected = _by_row(scores.heads, len(listed)), rounded(scores.total)
    return [
        one if math.isnan(score) else one._replace(score=score, chances=of)
        for one, score, of in zip(listed, expected, chances, strict=True)
    ]


def _by_row(columns: Mapping[str, NDArray[np.float32]], rows: int) -> list[dict[str, float]]:
    if not columns:
        return [{} for _ in range(rows)]
    return [dict(zip(columns, row, strict=True)) for row in zip(*map(rounded, columns.values()), strict=True)]
