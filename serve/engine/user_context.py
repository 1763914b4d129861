"""The context of a user in a request: events of the log, events of the request, and preferences."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from embed.behaviour import EVENT_TYPES, Event, clean_event
from embed.records import Reject
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog
from serve.storage.preferences import Preferences

MAX_RECENT = 200  # events of a user that requests use
INTERACTION_TYPES = tuple(type_ for type_ in EVENT_TYPES if type_ != "impression")
EXCLUDING_TYPES = {"seen": INTERACTION_TYPES, "cart": ("cart",), "purchase": ("purchase",)}
"""By value of the setting `exclude_interactions`, the event types after which an item is not recommended again."""


@dataclass(frozen=True)
class UserContext:
    """A user's events, the latest last, the ids of items that are not to be recommended, and all preferences.

    The excluded items include those that the user blocked.
    """

    events: Sequence[Event]
    excluded_items: Sequence[str]
    preferences: Preferences


@dataclass(frozen=True)
class PersonalizationContext:
    """How a search is personalized: the user's events, the latest last, and how much it counts that an item suits them.

    `strength` is in standard deviations for each one of relevance (see `RankingPipeline.personalize`). With `explain`
    each item has reasons. Items that pass the filter `blocked`, and `excluded_items`, are not returned.
    """

    events: Sequence[Event]
    strength: float
    explain: bool = False
    blocked: Mapping[str, Any] = field(default_factory=dict)
    excluded_items: Sequence[str] = ()

    @classmethod
    def from_user(cls, user: UserContext, strength: float, explain: bool) -> "PersonalizationContext":
        """Return the personalization for a user, by that user's preferences."""
        return cls(user.events, strength, explain, user.preferences.blocked, user.preferences.blocked_items)


def load_user_context(
    log: EventLog, settings: Settings, user_id: str | None, history: Sequence[Mapping[str, Any]] = ()
) -> UserContext:
    """Load a user's events and preferences, and add the events of the request.

    Args:
        log: the event log.
        settings: which interactions exclude an item, and how long to wait for the log.
        user_id: the user, if known.
        history: events of the request, the latest last.

    Raises:
        BadRequest: an event of `history` is invalid.
        StoreUnavailable: the log does not respond.
    """
    if user_id is None:
        return build_user_context(settings, Preferences(), None, history)
    timeout_s = settings.timeouts.events
    preferences = UserPrivacy(log.database, settings.store).preferences(user_id, timeout_s)
    if not preferences.personal:
        return build_user_context(settings, preferences, user_id, ())
    events = log.recent(user_id, MAX_RECENT, impressions=False, timeout_s=timeout_s)
    if len(events) < MAX_RECENT:  # all events of the user
        excluded = excluded_items(events, settings)
    else:
        excluded = log.user_items(user_id, _excluding_types(settings), timeout_s)
    return build_user_context(settings, preferences, user_id, history, events, excluded)


def build_user_context(
    settings: Settings,
    preferences: Preferences,
    user_id: str | None,
    history: Sequence[Mapping[str, Any]],
    logged: Sequence[Event] = (),
    excluded: Sequence[str] = (),
) -> UserContext:
    """Build a user's context from logged events and those of the request.

    Args:
        settings: which interactions exclude an item.
        preferences: the user's preferences; without personalization all events are ignored.
        user_id: the user, if known.
        history: events of the request, the latest last.
        logged: events of the log, the latest last.
        excluded: ids of the items that the log excludes.

    Raises:
        BadRequest: an event of `history` is invalid.
    """
    if not preferences.personal:
        return UserContext((), preferences.blocked_items, preferences)
    types, events, not_again = _excluding_types(settings), list(logged), list(excluded)
    now = time.time()
    for position, sent in enumerate(history):
        fields = {name: value for name, value in sent.items() if value is not None}
        event = clean_event({"user_id": user_id or "anonymous", "timestamp": now, **fields}, position)
        if isinstance(event, Reject):
            raise BadRequest(event.reason, f"history.{position}.{event.field}", event.code)
        events.append(event)
        if event.type in types:
            not_again.append(event.item_id)
    return UserContext(events[-MAX_RECENT:], [*not_again, *preferences.blocked_items], preferences)


def excluded_items(events: Sequence[Event], settings: Settings) -> list[str]:
    """Return the ids of items that are not recommended again after these events, each once."""
    types = _excluding_types(settings)
    return list(dict.fromkeys(event.item_id for event in events if event.type in types))


def _excluding_types(settings: Settings) -> list[str]:
    return sorted({type_ for name in settings.exclude_interactions for type_ in EXCLUDING_TYPES[name]})
