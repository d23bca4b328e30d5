"""Curves: panels one below the other, with names at the ends of the lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faststeer.utils.plot_labels import End, label_ends, note_points, settle
from faststeer.utils.plot_style import GREY, SMALL, new_figure, readable, series_style, wrapped

Data = Mapping[str, Any]

_STYLES = {"solid": "-", "dashed": "--", "dotted": ":"}
_NAME = 18  # characters of a line of a name beside the axes
_MOST_INTERVALS = 30  # in a panel; more would cover each other
_ACROSS = 2  # small panels in a row


def curves(data: Data) -> Any:
    """Return a figure of curves.

    Intervals of one curve are a band; those of several are bars, moved apart where the curves share
    their points. Where a panel would have over 30 of them each curve gets a small panel of its own.
    """
    panels = data["panels"]
    blocks = [_blocks(panel) for panel in panels]
    heights = [
        1.25 * -(-len(own) // _ACROSS) + 0.35 if len(own) > 1 else _height(own[0], at == 0)
        for at, own in enumerate(blocks)
    ]
    figure = new_figure(data["title"], sum(heights))
    parts = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)[:, 0]
    drawn: list[tuple[Any, Sequence[Data]]] = []
    limits = data.get("x_range")
    for part, panel, own in zip(parts, panels, blocks, strict=True):
        last = panel is panels[-1]
        if len(own) == 1:
            axes = part.subplots()
            _panel(axes, data, panel, limits)
            axes.set_ylabel(wrapped(panel["y"], 34))
            axes.set_xlabel(data["x"] if last else "")
            drawn.append((axes, panel["series"]))
        else:
            _small_panels(part, data, panel, limits)
    settle(figure)
    for axes, series in drawn:
        note_points(axes, _notes(series))
    return figure


def _blocks(panel: Data) -> list[Sequence[Data]]:
    """Return the series that share axes: all, or each alone where intervals would be too many."""
    series = panel["series"]
    intervals = sum(len(own["x"]) for own in series if "low" in own)
    return (
        [[own] for own in series] if len(series) > 1 and intervals > _MOST_INTERVALS else [series]
    )


def _height(series: Sequence[Data], first: bool) -> float:
    """Return the inches of a panel: its names beside it must have room."""
    lines = sum(wrapped(own["name"], _NAME).count("\n") + 1 for own in series)
    return max(3.4 if first else 1.9, 0.165 * lines + 0.7)


def _panel(axes: Any, data: Data, panel: Data, limits: Sequence[float] | None) -> None:
    series = panel["series"]
    shifts = _shifts(series)
    ends = []
    for number, (own, shift) in enumerate(zip(series, shifts, strict=True)):
        _curve(axes, number, own, shift, band=len(series) == 1)
        if len(series) > 1 and own["x"]:
            name, colour = wrapped(own["name"], _NAME), series_style(number)["color"]
            ends.append(End(own["x"][-1] + shift, own["y"][-1], name, colour))
    if panel.get("diagonal"):
        reach = max(max(own["x"], default=1) for own in series)
        axes.plot((0, reach), (0, reach), color=GREY, linewidth=1, linestyle=":")
        ends.append(End(0, 0, "equal loss", GREY))
    _decorate(axes, data, panel, limits)
    label_ends(axes, ends)


def _small_panels(part: Any, data: Data, panel: Data, limits: Sequence[float] | None) -> None:
    """Give each curve its own axes, with the others in light grey behind it."""
    series = panel["series"]
    down = -(-len(series) // _ACROSS)
    grid = part.subplots(down, _ACROSS, squeeze=False, sharex=True, sharey=True).flatten()
    for axes in grid[len(series) :]:
        axes.set_axis_off()
    for number, (axes, own) in enumerate(zip(grid, series, strict=False)):
        for other in series:
            if other is not own:
                axes.plot(other["x"], other["y"], color="#cccccc", linewidth=0.8)
        _curve(axes, number, own, 0.0, band=True)
        colour = readable(series_style(number)["color"])
        axes.set_title(wrapped(own["name"], 34), color=colour, fontsize=SMALL, parse_math=False)
        _decorate(axes, data, panel, limits)
        if number + _ACROSS >= len(series):
            axes.tick_params(labelbottom=True)
    part.supylabel(panel["y"], fontsize=9)


def _curve(axes: Any, number: int, series: Data, shift: float, band: bool) -> None:
    style = series_style(number)
    x, y = [own + shift for own in series["x"]], series["y"]
    axes.plot(x, y, linestyle=_STYLES[series.get("style", "solid")], **style)
    if "low" not in series:
        return
    low, high = series["low"], series["high"]
    if band:
        axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    else:
        axes.vlines(x, low, high, color=style["color"], linewidth=1.1, alpha=0.8)


def _shifts(series: Sequence[Data]) -> list[float]:
    """Return how far each curve's points are moved sideways, for intervals that would coincide."""
    points = [list(own["x"]) for own in series]
    bounded = any("low" in own for own in series)
    if len(series) < 2 or not bounded or len(points[0]) < 2 or any(p != points[0] for p in points):
        return [0.0] * len(series)
    gap = min(abs(b - a) for a, b in zip(points[0], points[0][1:], strict=False))
    step = 0.3 * gap / len(series)
    return [step * (number - (len(series) - 1) / 2) for number in range(len(series))]


def _decorate(axes: Any, data: Data, panel: Data, limits: Sequence[float] | None) -> None:
    if "line" in panel:
        axes.axhline(panel["line"], color=GREY, linewidth=1, linestyle=":")
    if "mark" in data:
        axes.axvline(data["mark"], color=GREY, linewidth=1, linestyle=":")
    if "y_range" in panel:
        axes.set_ylim(*panel["y_range"])
    if limits is not None:
        axes.set_xlim(*limits)
    axes.locator_params(axis="x", nbins=6)
    longest = max(panel["series"], key=lambda own: len(own["x"]))["x"]
    if len(longest) > 1 and longest[-1] < longest[0] and not axes.xaxis_inverted():
        axes.invert_xaxis()


def _notes(series: Sequence[Data]) -> list[tuple[float, float, str, str]]:
    """Return each point with its note, the points of the first series first."""
    return [
        (x, y, note, series_style(number)["color"])
        for number, own in enumerate(series)
        for x, y, note in zip(own["x"], own["y"], own.get("notes", ()), strict=False)
    ]
