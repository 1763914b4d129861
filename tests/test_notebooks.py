"""The four notebooks run from top to bottom on a small store with what was learned, and draw."""

import asyncio
import json
from pathlib import Path

import nbformat
import pytest
from helpers.shop import QUICK, QUICK_SCORER
from nbclient import NotebookClient

from serve.core.settings import Settings

FOLDER = Path(__file__).parents[1] / "notebooks"
PICTURES = {"tour": 7, "spaces": 8, "shoppers": 8, "feedback": 3}


@pytest.fixture(scope="module")
def ran(trained: Settings) -> dict[str, nbformat.NotebookNode]:
    """All notebooks after they ran, side by side, as much of the time goes into starting."""
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in FOLDER.glob("*.ipynb")}
    for name, notebook in notebooks.items():
        assert not any(cell.get("outputs") for cell in notebook.cells), f"{name} is committed with outputs"

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
    outputs = [output for cell in ran[name].cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= PICTURES[name]
