"""Audiences: for an item or a creative, the shoppers most likely to want it."""
