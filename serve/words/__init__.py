"""Words: what items say and shoppers type, as terms that match; spelling, what a query means, facets, suggestions."""
