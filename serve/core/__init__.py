"""Shared foundations: errors, settings, metrics, request context, field names, languages."""
