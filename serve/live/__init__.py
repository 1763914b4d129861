"""Follows releases, the journal and user feedback while the service runs."""
