"""The command line as tests run it."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]


def is_one_line(text: str) -> bool:
    """Whether an error reads as one sentence (however wide the terminal), not as a traceback."""
    lines = text.strip().splitlines()
    return any(line.startswith("error: ") for line in lines) and "Traceback" not in text and len(lines) <= 8
