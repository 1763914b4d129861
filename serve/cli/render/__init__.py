"""Renders what commands return, as tables, sentences and plots."""
