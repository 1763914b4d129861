"""What is known and kept of shoppers while the service answers: events, preferences, what was shown, who wants what."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from serve.campaigns.audience import Audiences
from serve.campaigns.user_table import UserTableCache
from serve.core.errors import StoreUnavailable
from serve.core.metrics import EVENTS, INTERACTIONS, WORTH
from serve.core.request_context import mark_partial, stage
from serve.core.settings import Settings
from serve.engine.engine import PersonalizationContext
from serve.engine.user_context import UserContext, build_user_context, load_user_context
from serve.live.event_ingest import EventResult, take_events
from serve.recommend.ranking.impressions import heads_of_event
from serve.storage.erasure import ErasureCounts, UserPrivacy
from serve.storage.event_log import EventLog, open_event_log
from serve.storage.impression_log import Display, ImpressionLog, ImpressionRecord
from serve.storage.impression_writer import ImpressionWriter
from serve.storage.preferences import Preferences

MAX_REMEMBERED = 50_000
log = logging.getLogger("vetrina")


class UserState:
    """Of one store; its database is opened when it is first needed. Safe in several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._preferences: dict[str, Preferences] = {}  # for when the database does not answer

    @cached_property
    def events(self) -> EventLog:
        """The event log; raises Broken where its database cannot be used."""
        return open_event_log(self._settings)

    @cached_property
    def rights(self) -> UserPrivacy:
        """Preferences and erasure of shoppers."""
        return UserPrivacy(self.events.database, self._settings.store)

    def erase(self, user_id: str) -> ErasureCounts:
        """Forget a user; answers that are on their way to the log are waited for."""
        self.answers.settle_all()
        self._preferences.pop(user_id, None)
        return self.rights.erase(user_id)

    @cached_property
    def audiences(self) -> Audiences:
        """Who will want what."""
        return Audiences(self.events, self.rights, UserTableCache(self.events, self.rights, self._settings))

    @cached_property
    def answers(self) -> ImpressionWriter:
        return ImpressionWriter(ImpressionLog(self.events.database))

    def log(self, request_id: str, user_id: str | None, release: str, display: Display) -> None:
        """Keep what was shown; it never waits."""
        self.answers.put(ImpressionRecord(request_id, user_id, time.time(), release, display))

    def take(
        self, rows: Sequence[Mapping[str, Any]], knows: Callable[[str], bool], bucket_of: Callable[[str], str]
    ) -> list[EventResult]:
        """Clean and keep events, on disk when this returns; so are then the answers that they are about.

        `knows` tells whether there is an item of an id, `bucket_of` which part of an A/B test a shopper is in.
        """
        for values in rows:
            self.answers.settle(str(values.get("request_id")))
        taken = take_events(self.events, rows, knows)
        for values, one in zip(rows, taken, strict=True):
            EVENTS.labels(one.status).inc()
            if one.status == "stored" and values.get("request_id"):
                self._count(values, bucket_of(str(values["user_id"])))
        return taken

    def _count(self, values: Mapping[str, Any], bucket: str) -> None:
        """Tell Prometheus of what came of an answer."""
        value = values.get("value")
        value = value if isinstance(value, int | float) else None
        for head in heads_of_event(str(values["type"]), value, self._settings.liked_from):
            INTERACTIONS.labels(bucket, head).inc()
            WORTH.labels(bucket).inc(self._settings.head_values.get(head, 0.0))

    def personalization(
        self,
        user_id: str | None,
        history: Sequence[Mapping[str, Any]] = (),
        personal: float | None = None,
        explain: bool = False,
    ) -> PersonalizationContext | None:
        """For whom a search is, None for nobody in particular; see `known`."""
        if user_id is None and not history:
            return None
        strength = self._settings.personalization if personal is None else personal
        return PersonalizationContext.of(self.known(user_id, history), strength, explain)

    def known(self, user_id: str | None, history: Sequence[Mapping[str, Any]] = ()) -> UserContext:
        """What to go by for a shopper, as of this moment.

        Where the database does not answer in time it is what the request brings, unless the shopper may have opted out
        of that; the answer says that it goes without events.
        """
        if user_id is None:
            return build_user_context(self._settings, Preferences(), None, history)
        try:
            with stage("events"):
                known = load_user_context(self.events, self._settings, user_id, history)
        except StoreUnavailable as error:
            log.warning("answering without what is known of shoppers: %s", error.message)
            mark_partial("events")
            wanted = self._preferences.get(user_id, Preferences(personal=False))
            return build_user_context(self._settings, wanted, user_id, history)
        self._preferences[user_id] = known.preferences
        while len(self._preferences) > MAX_REMEMBERED:
            self._preferences.pop(next(iter(self._preferences)), None)
        return known

    def close(self) -> None:
        """Write what is to be logged, and let the database go."""
        if "answers" in vars(self):  # it was used
            self.answers.close()
        if "events" in vars(self):
            self.events.close()
