"""Evaluation: the pipeline and plain baselines on held-out time, all items ranked."""
