"""Ranking: features, scorer, merchandising rules, diversity, exploration, explanations."""
