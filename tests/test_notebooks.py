"""The notebooks run from top to bottom on a freshly built store with what was learned, and draw."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from serve.settings import Settings

PLOTS = {"tour": 6, "feedback": 2, "vectors": 2}
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, trained: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VETRINA_STORE", str(trained.store))
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "notebooks are committed without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= PLOTS[path.stem]
