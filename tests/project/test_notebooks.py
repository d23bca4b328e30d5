"""The notebooks run from a fresh kernel, and are committed with the outputs of a whole run."""

import os
from pathlib import Path

import nbformat
import pytest
from places import ROOT
from run_notebooks import NOTEBOOKS, executed

LARGEST = 100 * 1024  # bytes, with outputs


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_path = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, python_path)))
    cells = [cell for cell in executed(path, tmp_path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    committed = [len(cell.outputs) for cell in code_cells(path)]
    assert [len(cell.outputs) for cell in cells] == committed  # what is shown is what it prints


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_as_a_whole_run_left_it(path: Path) -> None:
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    kinds = {output.output_type for output in outputs}
    assert "stream" in kinds
    assert "error" not in kinds
    assert path.stat().st_size < LARGEST
    assert not any(output.get("name") == "stderr" for output in outputs)


def test_there_is_a_notebook_for_each_step_of_a_newcomer() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first_vector", "many_users", "to_a_served_engine"]
