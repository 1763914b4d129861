"""What the service writes and reads back: event log, impression log, archive, preferences, erasure, bot detection."""
