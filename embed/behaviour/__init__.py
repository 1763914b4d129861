"""Behaviour: what an event is, how files of events are read and cleaned, and how they are split by time."""

from embed.behaviour.cleaning import clean_event
from embed.behaviour.event import EVENT_SCHEMA, EVENT_TYPES, Event, Signal, as_batch
from embed.behaviour.reader import EventMapping, open_events

__all__ = [
    "EVENT_SCHEMA",
    "EVENT_TYPES",
    "Event",
    "EventMapping",
    "Signal",
    "as_batch",
    "clean_event",
    "open_events",
]
