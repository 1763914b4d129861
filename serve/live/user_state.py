"""The users of a serving process: their events, preferences, and the impressions shown to them."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from serve.core.errors import StoreUnavailable
from serve.core.metrics import ATTRIBUTED_EVENTS, EVENTS, VALUE
from serve.core.request_context import mark_partial, stage
from serve.core.settings import Settings
from serve.engine.user_context import PersonalizationContext, UserContext, build_user_context, load_user_context
from serve.live.event_ingest import EventResult, store_events
from serve.recommend.ranking.impressions import heads_for_event
from serve.storage.erasure import ErasureCounts, UserPrivacy
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import ImpressionLog, ImpressionRecord, ShownItems
from serve.storage.impression_writer import ImpressionWriter
from serve.storage.preferences import Preferences

MAX_CACHED_PREFERENCES = 50_000  # users
_log = logging.getLogger("vetrina")


class UserState:
    """The users of one store; its database is opened on first use. Safe in several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._preferences: dict[str, Preferences] = {}  # by user, for when the database does not respond

    @cached_property
    def events(self) -> EventLog:
        """The event log; raises StoreUnavailable where its database cannot be used."""
        return open_event_log(self._settings)

    @cached_property
    def privacy(self) -> UserPrivacy:
        """Preferences and erasure of users."""
        return UserPrivacy(self.events.database, self._settings.store)

    @cached_property
    def impressions(self) -> ImpressionWriter:
        """The writer of the impression log."""
        return ImpressionWriter(ImpressionLog(self.events.database))

    def erase(self, user_id: str) -> ErasureCounts:
        """Erase a user; impressions that are still to be written are waited for."""
        self.impressions.wait_for_all()
        self._preferences.pop(user_id, None)
        return self.privacy.erase(user_id)

    def log_impression(self, request_id: str, user_id: str | None, release: str, shown: ShownItems) -> None:
        """Log the items that a response shows; never waits.

        Args:
            request_id: the id of the request.
            user_id: the user; None for an anonymous one.
            release: the release that responded.
            shown: the items, with their scores and propensities.
        """
        self.impressions.put(ImpressionRecord(request_id, user_id, time.time(), release, shown))

    def record_events(
        self, rows: Sequence[Mapping[str, Any]], is_known_item: Callable[[str], bool], bucket: Callable[[str], str]
    ) -> list[EventResult]:
        """Validate and store events. On return they are on disk, and so are the impressions that they refer to.

        Args:
            rows: events as received.
            is_known_item: whether the catalogue has an item id.
            bucket: the A/B test bucket of a user id, for metrics.

        Returns:
            The result of each row, in order.
        """
        for values in rows:
            self.impressions.wait_for(str(values.get("request_id")))
        results = store_events(self.events, rows, is_known_item)
        for values, result in zip(rows, results, strict=True):
            EVENTS.labels(result.status).inc()
            if result.status == "stored" and values.get("request_id"):
                self._count_interaction(values, bucket(str(values["user_id"])))
        return results

    def _count_interaction(self, values: Mapping[str, Any], bucket: str) -> None:
        """Count an interaction with a response in the metrics."""
        value = values.get("value")
        value = value if isinstance(value, int | float) else None
        for head in heads_for_event(str(values["type"]), value, self._settings.min_liked_rating):
            ATTRIBUTED_EVENTS.labels(bucket, head).inc()
            VALUE.labels(bucket).inc(self._settings.head_values.get(head, 0.0))

    def personalization(
        self,
        user_id: str | None,
        history: Sequence[Mapping[str, Any]] = (),
        strength: float | None = None,
        explain: bool = False,
    ) -> PersonalizationContext | None:
        """Return how to personalize a search; None without a user and history.

        Args:
            user_id: the user, if known.
            history: events of the request, see `context`.
            strength: how much personalization counts; by default as the settings say.
            explain: whether each item gets reasons.
        """
        if user_id is None and not history:
            return None
        strength = self._settings.personalization if strength is None else strength
        return PersonalizationContext.from_user(self.context(user_id, history), strength, explain)

    def context(self, user_id: str | None, history: Sequence[Mapping[str, Any]] = ()) -> UserContext:
        """Return a user's events and preferences as of now, with the events of the request.

        Where the database does not respond in time, only the events of the request count, unless the user may have
        opted out of personalization; the response is marked as partial.
        """
        if user_id is None:
            return build_user_context(self._settings, Preferences(), None, history)
        try:
            with stage("events"):
                context = load_user_context(self.events, self._settings, user_id, history)
        except StoreUnavailable as error:
            _log.warning("responding without the events of users: %s", error.message)
            mark_partial("events")
            preferences = self._preferences.get(user_id, Preferences(personal=False))
            return build_user_context(self._settings, preferences, user_id, history)
        self._preferences[user_id] = context.preferences
        while len(self._preferences) > MAX_CACHED_PREFERENCES:
            self._preferences.pop(next(iter(self._preferences)), None)
        return context

    def close(self) -> None:
        """Write the impressions that are still to be logged, and close the database."""
        if "impressions" in vars(self):  # it was used
            self.impressions.close()
        if "events" in vars(self):
            self.events.close()
