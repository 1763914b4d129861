"""Copy: short texts for items, of which nothing gets out that the catalogue does not support."""
