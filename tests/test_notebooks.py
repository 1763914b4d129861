"""The four notebooks run from top to bottom on a small trained store; what is committed has outputs without paths."""

import ast
import asyncio
import json
import re
from pathlib import Path

import nbformat
import pytest
from helpers.shop import QUICK, QUICK_SCORER
from nbclient import NotebookClient

from serve.core.settings import Settings

FOLDER = Path(__file__).parents[1] / "notebooks"
PICTURES = {"tour": 7, "spaces": 8, "users": 8, "feedback": 3}


def read_all() -> dict[str, nbformat.NotebookNode]:
    return {path.stem: nbformat.read(path, as_version=4) for path in FOLDER.glob("*.ipynb")}


@pytest.fixture(scope="module")
def ran(trained: Settings) -> dict[str, nbformat.NotebookNode]:
    """All notebooks after they ran, in parallel, as starting them takes much of the time."""
    notebooks = read_all()

    async def run() -> None:
        resources = {"metadata": {"path": str(FOLDER)}}
        clients = [NotebookClient(notebook, timeout=300, resources=resources) for notebook in notebooks.values()]
        await asyncio.gather(*(client.async_execute() for client in clients))

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VETRINA_STORE", str(trained.store))
        environment.setenv("VETRINA_TOWERS", json.dumps(QUICK))
        environment.setenv("VETRINA_SCORER", json.dumps(QUICK_SCORER))
        environment.setenv("VETRINA_THREADS", "1")
        environment.setenv("OMP_NUM_THREADS", "1")
        asyncio.run(run())
    return notebooks


def test_there_are_four(ran: dict[str, nbformat.NotebookNode]) -> None:
    assert set(ran) == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_draws(name: str, ran: dict[str, nbformat.NotebookNode]) -> None:
    assert pictures(ran[name]) >= PICTURES[name]


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_is_committed_with_outputs(name: str) -> None:
    notebook = read_all()[name]
    assert pictures(notebook) >= PICTURES[name]
    texts = [
        json.dumps(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
        for output in outputs(notebook)
    ]
    assert [text for text in texts if re.search(r"/(home|root|tmp|work|Users|usr)/", text)] == []
    assert not any(output.output_type == "error" or output.get("name") == "stderr" for output in outputs(notebook))


@pytest.mark.parametrize("name", PICTURES)
def test_a_notebook_patches_no_module(name: str) -> None:
    source = "\n".join(cell.source for cell in read_all()[name].cells if cell.cell_type == "code")
    tree = ast.parse(source)
    modules = {
        alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    targets = [target for node in ast.walk(tree) if isinstance(node, ast.Assign) for target in node.targets]
    attributes = [one for target in targets for one in ast.walk(target) if isinstance(one, ast.Attribute)]
    assert [ast.unparse(one) for one in attributes if isinstance(one.value, ast.Name) and one.value.id in modules] == []


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))
