"""Search building blocks: filters, fusion, facets, text analysis, vocabulary."""
