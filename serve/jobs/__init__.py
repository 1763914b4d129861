"""Jobs: what is run from time to time over a store, one at a time."""
