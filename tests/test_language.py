"""The public surface speaks the language of the field: none of the old words in names, help, OpenAPI and labels."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import typer

from serve.cli import app as command_line
from serve.core.settings import Settings
from serve.http.app import create_app

ROOT = Path(__file__).parents[1]
ROOMS = ("embed", "index", "serve")
OLD_WORDS = re.compile(
    r"(?:^|_)(?:shoppers?|who|acts|chances?|foretold|parked|left_out|barred|lexicon|tastes?|lookback|told|spoken"
    r"|complaint|floors|nobody)(?:_|$)"
)
"""Old words inside identifiers in snake case."""
OLD_NAMES = {
    *("Acting", "Asked", "Blend", "Broken", "Complaint", "Engine_", "Facts", "Following", "Found", "Known", "Lexicon"),
    *("Live", "LiveItems", "Lookback", "Material", "Numbering", "Past", "Ranker", "Recommender", "Shopper", "Shoppers"),
    *("Source", "Stages", "Taken", "Taste", "View", "Wanted"),
}
OLD_MODULES = {
    "asking",
    "kept",
    "offered",
    "following",
    "keeping",
    "operating",
    "described",
    "guard",
    "learn",
    "words",
    "view",
}
OLD_PHRASES = re.compile(
    r"\bshoppers?\b|\bis no (?:TOML|JSON|file|image|key|event)\b|\ba bug of ours\b|\bfor ever\b|\bforetold\b"
    r"|\bwhat (?:the|is|a|became|shoppers)\b(?=[^.?]{0,40}$)|^(?:what|who|whose)\b|\bleft out\b|\bthe blend\b"
    r"|\bbegun words\b|\btaste\b|\bparked\b|\bchances?\b|\blexicon\b|\bnobody had\b|\bit is none\b",
    re.IGNORECASE,
)


def public_names() -> Iterator[tuple[str, str]]:
    """Every public module, class, function, method, parameter and field, with where it is."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if "demo" in path.parts:
                continue
            where = str(path.relative_to(ROOT))
            yield path.stem, where
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    yield node.name, where
                    yield from (
                        (each.target.id, f"{where}: {node.name}")
                        for each in node.body
                        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
                    )
                elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                    yield node.name, where
                    parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                    yield from ((each.arg, f"{where}: {node.name}") for each in parameters)


def test_public_names_have_no_old_words() -> None:
    found = {(name, where) for name, where in public_names() if name in OLD_NAMES or OLD_WORDS.search(name.lower())}
    assert sorted(found) == []


def test_modules_have_no_old_names() -> None:
    assert [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.stem in OLD_MODULES] == []


def openapi_texts(node: object, where: str = "") -> Iterator[tuple[str, str]]:
    """Summaries, descriptions and titles of an OpenAPI document, and the names of its properties and parameters."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("summary", "description", "title") and isinstance(value, str):
                yield value.partition("```")[0], f"{where}.{key}"
            if key == "properties":
                yield from ((name.replace("_", " "), f"{where}.{name}") for name in value)
            yield from openapi_texts(value, f"{where}.{key}")
    elif isinstance(node, list):
        for position, value in enumerate(node):
            yield from openapi_texts(value, f"{where}.{position}")


def test_openapi_has_no_old_phrases(tmp_path: Path) -> None:
    document = create_app(Settings(store=tmp_path)).openapi()
    found = [(where, text) for text, where in openapi_texts(document) if OLD_PHRASES.search(text)]
    assert found == []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert len(operation["summary"].split()) <= 6, (method, path, operation["summary"])


def commands(command: object, name: str = "vetrina") -> Iterator[tuple[str, object]]:
    if getattr(command, "hidden", False):
        return
    yield name, command
    for inner, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{name} {inner}")


def test_help_has_no_old_phrases() -> None:
    for name, command in commands(typer.main.get_command(command_line)):
        texts = [getattr(command, "help", None) or "", *(getattr(each, "help", None) or "" for each in command.params)]  # type: ignore[attr-defined]
        assert [text for text in texts if OLD_PHRASES.search(text)] == [], name
        assert not OLD_WORDS.search(name.replace(" ", "_")), name


def test_settings_have_no_old_phrases() -> None:
    for name, field in Settings.model_fields.items():
        assert not OLD_WORDS.search(name), name
        assert not OLD_PHRASES.search(field.description or ""), (name, field.description)


def test_console_has_no_old_phrases() -> None:
    found = []
    for path in sorted((ROOT / "serve" / "http" / "console").rglob("*.*")):
        if path.suffix in (".js", ".html"):
            for text in re.findall(r'"([^"\n]{3,})"|`([^`\n]{3,})`|>([^<>\n{]{3,})<', path.read_text()):
                shown = " ".join(text)
                if " " in shown.strip() and OLD_PHRASES.search(shown):
                    found.append((path.name, shown))
    assert found == []
