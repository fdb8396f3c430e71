"""The notebook runs from top to bottom, and shows what is stored in it."""

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT

NOTEBOOK = ROOT / "docs" / "results.ipynb"


def outputs(notebook) -> list:
    """Return the text of every output, by cell."""
    return [
        [output.get("text") or output["data"]["text/plain"] for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


# The kernel's own libraries warn.
@pytest.mark.filterwarnings("default")
def test_the_notebook_shows_what_its_cells_compute() -> None:
    stored, fresh = (nbformat.read(NOTEBOOK, as_version=4) for _ in range(2))
    NotebookClient(fresh, timeout=600, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    assert outputs(fresh) == outputs(stored)
    assert all(outputs(stored))
