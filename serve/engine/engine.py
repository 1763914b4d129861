"""The engine: searches and recommends from one snapshot of the shop."""

from collections.abc import Sequence
from contextlib import suppress

from embed.behaviour import Event
from serve.core.errors import BadRequest, NotFound
from serve.core.settings import Settings
from serve.engine.engine_context import EngineContext
from serve.engine.query import Query
from serve.engine.query_encoders import Encoders
from serve.engine.recall_monitor import RecallMonitor
from serve.engine.recommend_engine import RecommendEngine
from serve.engine.search_engine import SearchEngine
from serve.recommend.ranking.merchandising_rules import RulesFile, rules_file
from serve.recommend.ranking.online_head import OnlineHead
from serve.recommend.ranking.pipeline import RankingPipeline
from serve.recommend.retrieval.user_history import UserHistory
from serve.release.snapshot import Snapshot


class Engine:
    """Holds the search and the recommendation engine over one shared context; safe in several threads.

    `search`, `similar`, `understand`, `facets` and `scores_by_retriever` are those of `SearchEngine`; `recommend`,
    `rank`, `candidates` and `events_in_domains` are those of `RecommendEngine`.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        encoders: Encoders,
        settings: Settings,
        rules: RulesFile | None = None,
        online_head: OnlineHead | None = None,
        recall_monitor: RecallMonitor | None = None,
    ) -> None:
        rules = RulesFile(rules_file(settings)) if rules is None else rules
        self.snapshot = snapshot
        self.context = EngineContext(snapshot, encoders, settings, rules, online_head)
        searching, recommending = SearchEngine(self.context, recall_monitor), RecommendEngine(self.context)
        self.search, self.similar = searching.search, searching.similar
        self.understand, self.facets = searching.understand, searching.facets
        self.scores_by_retriever = searching.scores_by_retriever
        self.recommend, self.rank = recommending.recommend, recommending.rank
        self.candidates, self.events_in_domains = recommending.candidates, recommending.events_in_domains

    def warm_up(self) -> None:
        """Run one query of each kind, so that the first request does not wait for lazy loading."""
        first = self.snapshot.item_id(0)
        with suppress(BadRequest, NotFound):  # no space may take text, and the first item may be deleted
            self.search(Query(k=10, text="any"))
            self.similar([first], 10)
        self.recommend([], 10)

    @property
    def ranker(self) -> RankingPipeline:
        """Ranks this snapshot's items for a user."""
        return self.context.ranker

    def user(self, events: Sequence[Event]) -> UserHistory:
        """Return a user's history by item index."""
        return self.context.user(events)

    def item_index(self, item_id: str, field: str = "item_id") -> int:
        """Return an item's index; raises NotFound, with the request's `field` that names the item."""
        return self.context.item_index(item_id, field)
