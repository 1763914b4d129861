"""Training of the two-tower model, the score blend and the scorer."""
