"""Renders command results as tables and plots."""
