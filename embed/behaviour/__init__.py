"""Behaviour: what an event is, how files of events are read and cleaned, and how they are split by time."""

from embed.behaviour.cleaning import clean_event
from embed.behaviour.event import EVENT_SCHEMA, EVENT_TYPES, Event, Signal, as_batch
from embed.behaviour.interactions import Collected, Interactions, collect
from embed.behaviour.reader import EventMapping, open_events
from embed.behaviour.splits import Holdout, Split, leave_one_out, split_at, split_by_time

__all__ = [
    "EVENT_SCHEMA",
    "EVENT_TYPES",
    "Collected",
    "Event",
    "EventMapping",
    "Holdout",
    "Interactions",
    "Signal",
    "Split",
    "as_batch",
    "clean_event",
    "collect",
    "leave_one_out",
    "open_events",
    "split_at",
    "split_by_time",
]
