"""Ranking: what decides among candidates: features, the scorer and its training, rules, diversity, explanations."""
