"""Training: what is fitted on shoppers' behaviour, towers and blend and scorer, and the jobs that do it."""
