"""Execute the notebooks in fresh kernels and write the outputs that they are shown with.

    python benchmarks/docs/run_notebooks.py [NOTEBOOK...]

What a run prints on stderr is left out: it depends on the packages that are installed.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
SECONDS = 600  # per cell, and to start: the first may convert the model, on a busy machine


def executed(path: Path, folder: str | os.PathLike[str]) -> nbformat.NotebookNode:
    """Return the notebook with its outputs, after a run in `folder`.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=SECONDS,
        startup_timeout=SECONDS,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env=os.environ | {"TMPDIR": str(folder)})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}  # no version: it would change with each
    return notebook


def main() -> None:
    for path in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, folder)
        nbformat.write(notebook, path)
        print(path)


if __name__ == "__main__":
    main()
