"""The arrows between the rooms: embed and index know nothing of each other nor of serve; index knows no torch."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "embed": {"index", "serve"},
    "index": {"embed", "serve", "torch", "open_clip", "sentence_transformers", "timm"},
    "serve": set[str](),
}


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert len(files) > 3
    for path in files:
        assert not imported(path) & FORBIDDEN[room], path.relative_to(ROOT)


def test_every_file_says_what_it_holds() -> None:
    for room in FORBIDDEN:
        for path in (ROOT / room).rglob("*.py"):
            assert ast.get_docstring(ast.parse(path.read_text())), path.relative_to(ROOT)


def test_nothing_unpickles() -> None:
    for room in FORBIDDEN:
        for path in (ROOT / room).rglob("*.py"):
            assert not imported(path) & {"pickle", "dill", "cloudpickle", "joblib"}, path
            assert "allow_pickle=True" not in path.read_text(), path
