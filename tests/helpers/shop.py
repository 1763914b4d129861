"""Settings that train in seconds."""

QUICK = {"epochs": 4, "dim": 16, "patience": 4}


QUICK_SCORER = {"epochs": 3, "max_lists": 200, "hard_negatives": 20}
