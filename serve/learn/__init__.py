"""Learning from shoppers: the event log, what is known of a shopper, and the jobs that fit towers, blend and scorer."""
