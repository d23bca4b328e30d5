"""Figures of a few kinds, each drawn from plain data that are kept beside it as JSON.

========== =======================================================================================
kind       data
========== =======================================================================================
curves     ``title``, ``x``, optionally ``x_range`` and ``mark`` (a value to compare at);
           ``panels``, one below the other: ``y``, ``series`` of ``name``, ``x``, ``y`` and
           optionally ``low`` and ``high`` (an interval), ``style``, ``notes`` (text at each
           point, where there is room); optionally ``y_range``, ``diagonal``, ``line`` (a height
           to compare with). Lines are drawn from left to right: x falls where theirs does.
bars       ``title``, ``y``, ``groups``; ``series`` of ``name``, ``values`` (None: no bar) and
           optionally ``low`` and ``high``. Optionally ``line``, a value to compare with.
histograms ``title``, ``x``; ``panels``, side by side: ``title``, ``edges``, ``series`` of
           ``name`` and ``counts``, each on axes of its own with a logarithmic scale.
matrix     ``title``, ``rows``, ``columns``, ``values`` (None: unknown), ``label``, ``reach``: the
           value of the strongest colour. Optionally ``x`` and ``y``.
========== =======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from faststeer.experiments.chart_bars import bars
from faststeer.experiments.chart_curves import curves
from faststeer.experiments.chart_grids import histograms, matrix
from faststeer.utils.plot_style import as_png, figure_style, require_matplotlib

Data = Mapping[str, Any]


def draw(kind: str, data: Data) -> bytes:
    """Draw a figure as PNG. Equal data give equal bytes.

    Raises:
        ValueError: an unknown kind, data of another kind, or matplotlib is missing.
    """
    with figure_style():
        return as_png(make_figure(kind, data))


def make_figure(kind: str, data: Data) -> Any:
    """Return a figure of matplotlib with its final layout.

    Raises:
        ValueError: as for `draw`.
    """
    if kind not in KINDS:
        raise ValueError(f"figure kind {kind!r} is unknown; there are {', '.join(KINDS)}")
    require_matplotlib()
    try:
        with figure_style():
            return KINDS[kind](data)
    except KeyError as error:
        raise ValueError(f"a figure of {kind} needs {error}") from error


KINDS: dict[str, Callable[[Data], Any]] = {
    "curves": curves,
    "bars": bars,
    "histograms": histograms,
    "matrix": matrix,
}
