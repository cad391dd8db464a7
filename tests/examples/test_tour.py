"""examples/tour.ipynb: it runs from top to bottom, and what it says is what comes out."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after a run in a fresh folder."""
    notebook = nbformat.read(TOUR, as_version=4)
    folder = tmp_path_factory.mktemp("tour")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def outputs(notebook, word, kind="execute_result"):
    """The outputs, of one kind, of the cells that hold a word."""
    return [output for cell in notebook.cells if cell.cell_type == "code" and word in cell.source
            for output in cell.outputs if output.output_type == kind]


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(TOUR, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 10 and not any(cell.outputs or cell.execution_count for cell in code)
    assert all(len(line) <= 120 for cell in notebook.cells for line in cell.source.splitlines())


@pytest.mark.slow
def test_every_figure_shows_itself(executed):
    for word in ("loss_figure", "filmstrip", "samples_figure(500", "mine.samples_figure"):
        (png,) = [output.data["image/png"] for output in outputs(executed, word)]
        assert len(png) > 10_000


@pytest.mark.slow
def test_what_the_text_says_is_what_comes_out(executed):
    (shape,) = [output.data["text/plain"] for output in outputs(executed, "run.sample(500)")]
    assert shape.startswith("((500, 2)")
    right, wrong = (output.data["text/plain"] for output in outputs(executed, "check_gradients"))
    (tensor, element), (tensor_wrong, _) = eval(right)["x"], eval(wrong)["x"]
    assert max(tensor, element) < 1e-14 and tensor_wrong > 0.1
    bars = "".join(output.text for output in outputs(executed, 'npdiff.train("moons"', "stream"))
    assert "training" in bars and "it/s" in bars and bars.count("\n") < 5
