"""Runs searches and recommendations on one snapshot of the shop."""
