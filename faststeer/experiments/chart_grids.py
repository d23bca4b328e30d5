"""Figures of many small parts: histograms on axes of their own, and a map of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faststeer.utils.plot_labels import settle
from faststeer.utils.plot_style import (
    COLOURS,
    SMALL,
    diverging_map,
    ink_on,
    new_figure,
    plain_log_axis,
    readable,
)

Data = Mapping[str, Any]


def histograms(data: Data) -> Any:
    """Return a figure with a column per panel and a row per series, so that none hides another."""
    panels = data["panels"]
    down = max(len(panel["series"]) for panel in panels)
    figure = new_figure(data["title"], 0.85 * down + 0.7, "number of components, logarithmic")
    grid = figure.subplots(down, len(panels), squeeze=False, sharey=True, sharex="col")
    highest = max((max(own["counts"]) for panel in panels for own in panel["series"]), default=1)
    for column, panel in zip(grid.T, panels, strict=True):
        column[0].set_title(panel["title"], parse_math=False)
        column[-1].set_xlabel(data["x"])
        for axes in column[len(panel["series"]) :]:
            axes.set_axis_off()
        for number, (axes, own) in enumerate(zip(column, panel["series"], strict=False)):
            colour = COLOURS[number % len(COLOURS)]
            axes.stairs(own["counts"], panel["edges"], color=colour, fill=True, baseline=0.5)
            plain_log_axis(axes.yaxis, 0.5, 2.0 * max(highest, 1))
            axes.text(
                0.02,
                0.97,
                own["name"],
                transform=axes.transAxes,
                va="top",
                fontsize=SMALL,
                color=readable(colour),
                parse_math=False,
            )
    settle(figure)
    return figure


def matrix(data: Data) -> Any:
    """Return a map of numbers, each in black or white, whichever its cell's colour lets be read."""
    rows, columns, values = data["rows"], data["columns"], data["values"]
    reach = data["reach"]
    digits = 2 if reach >= 0.5 else 3
    colours = diverging_map()
    figure = new_figure(data["title"], 0.42 * len(rows) + 1.5, f"{data['label']}: blue −, orange +")
    axes = figure.subplots()
    grid = [[float("nan") if value is None else value for value in row] for row in values]
    axes.imshow(grid, cmap=colours, vmin=-reach, vmax=reach, aspect="auto")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            shown = "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")
            fill = "white" if value is None else colours((value / reach + 1) / 2)
            axes.text(x, y, shown, ha="center", va="center", fontsize=SMALL, color=ink_on(fill))
    axes.set_xticks(range(len(columns)), columns, parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    axes.set_xlabel(data.get("x", ""))
    axes.set_ylabel(data.get("y", ""))
    axes.grid(visible=False)
    _turn_wide_labels(figure, axes, len(columns))
    settle(figure)
    return figure


def _turn_wide_labels(figure: Any, axes: Any, columns: int) -> None:
    """Turn the names of columns upright where one is wider than its column."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    room = axes.get_window_extent(renderer).width / columns
    labels = axes.get_xticklabels()
    if any(label.get_window_extent(renderer).width > 0.95 * room for label in labels):
        axes.tick_params(axis="x", rotation=90)
