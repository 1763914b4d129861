"""Recommendations: retrieval proposes candidates, ranking orders them."""
