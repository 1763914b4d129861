"""User behaviour: events, how files of them are read and cleaned, interactions made of them, splits by time."""

from embed.behaviour.event import EVENT_SCHEMA, EVENT_TYPES, Event, Signal, as_batch
from embed.behaviour.event_cleaning import clean_event
from embed.behaviour.event_reader import EventMapping, open_events
from embed.behaviour.interactions import InteractionCounts, Interactions, collect_interactions
from embed.behaviour.splits import Holdout, Split, leave_one_out, split_at, split_by_time, split_user_tails

__all__ = [
    "EVENT_SCHEMA",
    "EVENT_TYPES",
    "Event",
    "EventMapping",
    "Holdout",
    "InteractionCounts",
    "Interactions",
    "Signal",
    "Split",
    "as_batch",
    "clean_event",
    "collect_interactions",
    "leave_one_out",
    "open_events",
    "split_at",
    "split_by_time",
    "split_user_tails",
]
