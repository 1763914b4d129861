"""Settings that train in seconds."""

QUICK = {"epochs": 4, "dim": 16, "patience": 4}


QUICK_SCORER = {"epochs": 3, "cases": 200, "hard": 20}
