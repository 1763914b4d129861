"""Adapters of queries, learned from a shop's own catalogue: how its words and photos enter the image space."""
