"""Figures of an inspection over the layers: norms, dose, separability, cosines.

Each is made inside `figure_style` and returned with its final layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from faststeer.diagnostics.inspection import Inspection
from faststeer.diagnostics.plot_text import drawable, heading
from faststeer.utils.plot_labels import End, label_ends, settle
from faststeer.utils.plot_style import (
    GREY,
    VERMILLION,
    diverging_map,
    new_figure,
    plain_log_axis,
    series_style,
    wrapped,
)

_MOST_TICKS = 11
_NAME = 20  # characters of a line of a name beside the axes


def norms_figure(inspection: Inspection) -> Any:
    """Plot the norm of the vector and, if known, of the residual stream."""
    layers = list(inspection.layers)
    facts = inspection.layers.values()
    norms, residual = [own.norm for own in facts], [own.residual_norm for own in facts]
    figure = new_figure(heading(inspection, "norms"), 2.8)
    axes = figure.subplots()
    ends = [_line(axes, layers, norms, "vector", 1)]
    known = [own for own in residual if own is not None]
    if len(known) == len(layers):
        ends.append(_line(axes, layers, known, "residual stream, median over tokens", 0))
        positive = [own for own in (*norms, *known) if own > 0]
        plain_log_axis(axes.yaxis, 0.8 * min(positive), 1.25 * max(positive))
        axes.set_ylabel("Euclidean norm, logarithmic")
    else:
        axes.set_ylim(bottom=0)
        axes.set_ylabel("Euclidean norm")
    _by_layer(axes, layers)
    label_ends(axes, ends)
    settle(figure)
    return figure


def dose_figure(inspection: Inspection) -> Any:
    """Plot the norm that is added, relative to the residual stream's."""
    layers = list(inspection.layers)
    title = heading(inspection, f"relative dose at coefficient {inspection.coefficient:+g}")
    figure = new_figure(title, 2.6)
    axes = figure.subplots()
    doses = [100 * (own.dose or 0) for own in inspection.layers.values()]
    axes.bar(layers, doses, color=VERMILLION)
    axes.set_ylabel("% of the residual stream's\nmedian norm")
    _by_layer(axes, layers)
    settle(figure)
    return figure


def separability_figure(inspection: Inspection) -> Any:
    """Plot the AUCs above, the cosine of the halves below: equal AUCs are beside each other."""
    layers = list(inspection.layers)
    facts = inspection.layers.values()
    figure = new_figure(heading(inspection, "separability of the pairs"), 4.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    step = min((b - a for a, b in pairwise(layers)), default=1)
    ends = []
    for number, (name, values) in enumerate(
        {
            "all pairs, which may have made the vector": [own.auc for own in facts],
            "held out: each half's vector on the other half": [own.held_out_auc for own in facts],
        }.items()
    ):
        # Where both are 1 at every layer, one would hide the other.
        beside = [layer + 0.16 * step * (2 * number - 1) for layer in layers]
        ends.append(_line(above, beside, values, name, number, linestyle="none", markersize=4))
        above.vlines(beside, 0.5, values, color=series_style(number)["color"], linewidth=1.5)
    above.axhline(0.5, color=GREY, linewidth=1, linestyle=":")
    ends.append(End(layers[-1], 0.5, "chance", GREY))
    above.set_ylim(top=1.03)
    above.set_ylabel("AUC")
    cosines = [own.stability for own in facts]
    end = _line(below, layers, cosines, "of the halves' vectors", 2)
    below.set_ylabel("cosine")
    below.set_ylim(top=1.03)
    _by_layer(above, layers)
    above.set_xlabel("")
    _by_layer(below, layers)
    label_ends(above, ends)
    label_ends(below, [end])
    settle(figure)
    return figure


def cosines_figure(inspection: Inspection) -> Any:
    """Map the cosine between every two layers."""
    layers = list(inspection.layers)
    figure = new_figure(heading(inspection, "cosine between layers"), 4.3)
    axes = figure.subplots()
    values = inspection.cosines.tolist()
    image = axes.imshow(values, cmap=diverging_map(), vmin=-1, vmax=1)
    bar = figure.colorbar(image, ax=axes, ticks=(-1, -0.5, 0, 0.5, 1))
    bar.set_label("cosine")
    step = -(-len(layers) // _MOST_TICKS)
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(range(0, len(layers), step), layers[::step])
    axes.set_xlabel("layer")
    axes.set_ylabel("layer")
    axes.grid(visible=False)
    settle(figure)
    return figure


def between_figure(inspection: Inspection) -> Any:
    """Plot the cosine of every two vectors, one line per pair."""
    names = [wrapped(f"{drawable(a)}, {drawable(b)}", _NAME) for a, b in inspection.between]
    lines = sum(name.count("\n") + 1 for name in names)
    title = heading(inspection, "cosine between the vectors", whose=False)
    figure = new_figure(title, max(3.0, 0.165 * lines + 0.7))
    axes = figure.subplots()
    layers = list(next(iter(inspection.between.values())))
    ends = [
        _line(axes, layers, list(cosines.values()), name, number)
        for number, (name, cosines) in enumerate(
            zip(names, inspection.between.values(), strict=True)
        )
    ]
    axes.axhline(0, color=GREY, linewidth=1, linestyle=":")
    axes.set_ylim(-1.05, 1.05)
    axes.set_ylabel("cosine")
    _by_layer(axes, layers)
    label_ends(axes, ends)
    settle(figure)
    return figure


def _line(
    axes: Any,
    x: Sequence[float],
    values: Sequence[float | None],
    name: str,
    number: int,
    **style: Any,
) -> End:
    """Draw a line and return its end; None and NaN (a direction of zero) are gaps."""
    y = [float("nan") if value is None else value for value in values]
    axes.plot(x, y, **(series_style(number) | style))
    known = [(a, b) for a, b in zip(x, y, strict=True) if b == b]
    end = known[-1] if known else (x[-1], 0.0)
    return End(*end, wrapped(name, _NAME), series_style(number)["color"])


def _by_layer(axes: Any, layers: list[int]) -> None:
    axes.set_xlabel("layer")
    axes.set_xticks(layers[:: -(-len(layers) // _MOST_TICKS)])
    axes.set_xlim(layers[0] - 0.7, layers[-1] + 0.7)
