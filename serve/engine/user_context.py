"""What is known of a shopper when asked: the events of the log, and those that the request brings."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embed.behaviour import EVENT_TYPES, Event, clean_event
from embed.records import Reject
from serve.core.errors import BadRequest
from serve.core.settings import Settings
from serve.storage.erasure import UserPrivacy
from serve.storage.event_log import EventLog
from serve.storage.preferences import Preferences

MAX_RECENT = 200  # events of a shopper that an answer goes by
SEEN = tuple(type_ for type_ in EVENT_TYPES if type_ != "impression")
TYPES = {"seen": SEEN, "cart": ("cart",), "purchase": ("purchase",)}


@dataclass(frozen=True)
class UserContext:
    """A shopper's events, the latest last, and the items that are not to be recommended again.

    The latter are those that the shopper blocked, too; `preferences` is all that was set.
    """

    events: Sequence[Event]
    excluded: Sequence[str]
    preferences: Preferences


def load_user_context(
    store: EventLog, settings: Settings, user_id: str | None, history: Sequence[Mapping[str, Any]] = ()
) -> UserContext:
    """What to go by for a shopper; raises BadRequest for a history that holds what is no event, and Broken."""
    if user_id is None:
        return build_user_context(settings, Preferences(), None, history)
    patience = settings.timeouts.events
    wanted = UserPrivacy(store.database, settings.store).preferences(user_id, patience)
    if not wanted.personal:
        return build_user_context(settings, wanted, user_id, ())
    events = store.recent(user_id, MAX_RECENT, impressions=False, patience=patience)
    if len(events) < MAX_RECENT:  # these are all there are
        excluded = excluded_items(events, settings)
    else:
        excluded = store.items(user_id, _types(settings), patience)
    return build_user_context(settings, wanted, user_id, history, events, excluded)


def build_user_context(
    settings: Settings,
    wanted: Preferences,
    user_id: str | None,
    history: Sequence[Mapping[str, Any]],
    past: Sequence[Event] = (),
    not_again: Sequence[str] = (),
) -> UserContext:
    """What to go by for a shopper by what the request brings, after what is known from the `past`."""
    if not wanted.personal:
        return UserContext((), wanted.blocked_items, wanted)
    types, events, excluded = _types(settings), list(past), list(not_again)
    now = time.time()
    for place, told in enumerate(history):
        values = {"user_id": user_id or "anonymous", "timestamp": now, **_given(told)}
        event = clean_event(values, place)
        if isinstance(event, Reject):
            raise BadRequest(event.reason, f"history.{place}.{event.field}", event.code)
        events.append(event)
        if event.type in types:
            excluded.append(event.item_id)
    return UserContext(events[-MAX_RECENT:], [*excluded, *wanted.blocked_items], wanted)


def excluded_items(events: Sequence[Event], settings: Settings) -> list[str]:
    """The items that are not to be recommended again to who did this, each once."""
    types = _types(settings)
    return list(dict.fromkeys(event.item_id for event in events if event.type in types))


def _types(settings: Settings) -> list[str]:
    return sorted({type_ for name in settings.exclude_interactions for type_ in TYPES[name]})


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
