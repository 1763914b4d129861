"""Offline evaluation: replay, metrics, off-policy estimates, release gate."""
