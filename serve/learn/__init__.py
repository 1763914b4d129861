"""Learning from shoppers: the event log, and what is made of it."""
