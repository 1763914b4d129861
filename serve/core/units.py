"""Units of time."""

DAY = 86_400.0  # seconds
