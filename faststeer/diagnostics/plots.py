"""Plots of an inspection, each with a CSV file of its data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faststeer.diagnostics.inspection import Inspection
from faststeer.diagnostics.plot_layers import (
    between_figure,
    cosines_figure,
    dose_figure,
    norms_figure,
    separability_figure,
)
from faststeer.diagnostics.plot_lens import lens_figure
from faststeer.utils.files import write_whole
from faststeer.utils.plot_style import as_png, figure_style, require_matplotlib

_Rows = list[list[Any]]  # of a CSV file, with its header


def write_plots(inspection: Inspection, folder: Path) -> list[Path]:
    """Write a PNG plot of each part of the inspection, its data as CSV, and the whole as JSON.

    Returns the paths written. The folder is created if needed; existing files are replaced.

    Raises:
        ValueError: matplotlib is not installed, or `folder` is a file.
    """
    require_plots(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "inspection.json"]
    content = json.dumps(inspection.to_json(), indent=1, ensure_ascii=False, default=str)
    write_whole(written[0], content.encode())
    for name, (make, rows) in _parts(inspection).items():
        table = io.StringIO(newline="")
        csv.writer(table).writerows(rows(inspection))
        with figure_style():
            image = as_png(make(inspection))
        for ending, data in (("png", image), ("csv", table.getvalue().encode())):
            path = folder / f"{name}.{ending}"
            write_whole(path, data)
            written.append(path)
    return written


def require_plots(folder: Path) -> None:
    """Raise ValueError if plots cannot be written to `folder`, before any long computation."""
    require_matplotlib()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: plots go into a folder, and this is a file")


_Part = tuple[Callable[[Inspection], Any], Callable[[Inspection], _Rows]]


def _parts(inspection: Inspection) -> dict[str, _Part]:
    """Return the figure and the rows of each part that was computed, by name."""
    facts = inspection.layers.values()
    found: dict[str, _Part] = {"norms": (norms_figure, _norms)}
    if len(facts) > 1:
        found["cosines"] = (cosines_figure, _cosines)
    if any(own.dose is not None for own in facts):
        found["dose"] = (dose_figure, _dose)
    if any(own.auc is not None for own in facts):
        found["separability"] = (separability_figure, _separability)
    if any(own.lens is not None for own in facts):
        found["lens"] = (lens_figure, _lens)
    if inspection.between:
        found["behaviours"] = (between_figure, _between)
    return found


def _norms(inspection: Inspection) -> _Rows:
    header = ["layer", "vector_norm", "residual_norm"]
    facts = inspection.layers.items()
    return [header, *([layer, own.norm, own.residual_norm] for layer, own in facts)]


def _dose(inspection: Inspection) -> _Rows:
    facts = inspection.layers.items()
    return [["layer", "relative_dose"], *([layer, own.dose] for layer, own in facts)]


def _separability(inspection: Inspection) -> _Rows:
    header = ["layer", "auc", "held_out_auc", "cosine_of_halves"]
    facts = inspection.layers.items()
    return [header, *([n, own.auc, own.held_out_auc, own.stability] for n, own in facts)]


def _cosines(inspection: Inspection) -> _Rows:
    layers = list(inspection.layers)
    rows = zip(layers, inspection.cosines.tolist(), strict=True)
    return [["layer", *layers], *([layer, *row] for layer, row in rows)]


def _between(inspection: Inspection) -> _Rows:
    layers = list(next(iter(inspection.between.values())))
    rows = ([a, b, *cosines.values()] for (a, b), cosines in inspection.between.items())
    return [["vector", "other", *layers], *rows]


def _lens(inspection: Inspection) -> _Rows:
    rows: _Rows = [["layer", "rank", "kind", "token", "text", "z"]]
    for layer, own in inspection.layers.items():
        if own.lens is not None:
            for kind, side in (
                ("promoted", own.lens.promoted),
                ("suppressed", own.lens.suppressed),
            ):
                for rank, (token, text, z) in enumerate(side, 1):
                    rows.append([layer, rank, kind, token, text, z])
    return rows
