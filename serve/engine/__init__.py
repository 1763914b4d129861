"""Answers search, similar-item and recommendation queries from one snapshot."""
