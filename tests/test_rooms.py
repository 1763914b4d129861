"""The floors of the code: which package may import which, and limits that keep every module readable."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("embed", "index", "serve")
FORBIDDEN = {
    "embed": {"index", "serve"},
    "index": {"embed", "serve", "torch", "open_clip", "sentence_transformers", "timm"},
    "serve": set[str](),
}
FLOORS = {
    "core": 1,
    "storage": 2,
    "security": 2,
    "moderation": 2,
    "search": 2,
    "recommend": 3,
    "schemas": 3,
    "release": 4,
    "client": 4,
    "engine": 5,
    "training": 5,
    "live": 6,
    "campaigns": 6,
    "evaluation": 6,
    "http": 7,
    "jobs": 7,
    "cli": 8,
}
"""The packages of `serve/`. Each imports only from floors below its own."""
INNER_FLOORS = {("recommend", "retrieval"): 1, ("recommend", "ranking"): 2}
OWN_COPY = ("errors", "progress", "ragged")
"""Small modules that each of the three rooms has for itself, as `embed` and `index` know nothing of each other."""
MAX_LINES = 400
MAX_TEST_LINES = 600
MAX_PUBLIC_METHODS = 15
MAX_TOP = 22


def modules(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert len(found) > 3, room
    return found


def imports(path: Path) -> Iterator[str]:
    """The full names of what a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    for path in modules(room):
        assert not imported(path) & FORBIDDEN[room], path.relative_to(ROOT)


def test_serve_imports_only_from_lower_floors() -> None:
    up = []
    for path in modules("serve"):
        parts = path.relative_to(ROOT / "serve").with_suffix("").parts
        if parts == ("__init__",):
            continue
        for name in imports(path):
            room, *inside = name.split(".")
            if room != "serve" or not inside:
                continue
            target, here = inside[0], parts[0]
            if target == "demo" or here == "demo":
                allowed = here in {"demo", "cli"}
            elif target == here:
                one, other = INNER_FLOORS.get(tuple(parts[:2])), INNER_FLOORS.get(tuple(inside[:2]))  # type: ignore[arg-type]
                allowed = one is None or other is None or one >= other
            else:
                allowed = FLOORS[target] < FLOORS[here]
            if not allowed:
                up.append(f"{'/'.join(parts)} imports {name}")
    assert up == []


def test_every_package_of_serve_has_a_floor_and_there_are_few() -> None:
    top = {
        path.name.removesuffix(".py")
        for path in (ROOT / "serve").iterdir()
        if path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
    } - {"__init__", "py.typed"}
    assert top == {*FLOORS, "demo"}
    assert len(top) <= MAX_TOP


@pytest.mark.parametrize("room", [*ROOMS, "tests"])
def test_no_file_and_no_class_is_too_large(room: str) -> None:
    limit = MAX_TEST_LINES if room == "tests" else MAX_LINES
    for path in modules(room):
        text = path.read_text()
        assert len(text.splitlines()) <= limit, path.relative_to(ROOT)
        if room == "tests":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                public = [
                    each.name
                    for each in node.body
                    if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and not each.name.startswith("_")
                ]
                assert len(public) <= MAX_PUBLIC_METHODS, f"{path.relative_to(ROOT)}: {node.name}"


def test_tests_share_helpers_and_nothing_else() -> None:
    for path in modules("tests"):
        assert not {name for name in imported(path) if name.startswith(("test_", "conftest"))}, path.relative_to(ROOT)


@pytest.mark.parametrize(
    "base", [("serve.cli", "serve.http", "serve.schemas", "serve.client"), ()], ids=["modules", "classes"]
)
def test_no_two_share_a_name(base: tuple[str, ...]) -> None:
    """No two modules and no two public classes that a reader could take for one another.

    Modules of the command line, the HTTP routes and their schemas are named after the same resources on purpose.
    """
    seen: dict[str, str] = {}
    for room in ROOMS:
        for path in modules(room):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if base:
                names = [] if module.startswith(base) or path.stem in ("__init__", *OWN_COPY) else [path.stem]
            else:
                names = [
                    node.name
                    for node in ast.parse(path.read_text()).body
                    if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
                    if not module.startswith("serve.client")  # stands alone
                ]
            for name in names:
                assert name not in seen, f"{name}: {seen[name]} and {module}"
                seen[name] = module


def test_every_file_says_what_it_holds() -> None:
    for room in ROOMS:
        for path in modules(room):
            assert ast.get_docstring(ast.parse(path.read_text())), path.relative_to(ROOT)


def test_nothing_unpickles() -> None:
    for room in ROOMS:
        for path in modules(room):
            assert not imported(path) & {"pickle", "dill", "cloudpickle", "joblib"}, path
            assert "allow_pickle=True" not in path.read_text(), path
