"""Training of the two-tower model, the linear score model and the scorer."""
