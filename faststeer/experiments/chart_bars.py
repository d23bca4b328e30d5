"""Bars: a row per value, named at the left, with its interval and its number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faststeer.utils.plot_labels import settle
from faststeer.utils.plot_style import COLOURS, GREY, SMALL, new_figure, wrapped

Data = Mapping[str, Any]

_NAME = 22  # characters of a line of a row's name
_ROW = 0.165  # inches of a line of text


def bars(data: Data) -> Any:
    """Return a figure of horizontal bars, in groups under their names, intervals as lines."""
    groups, series = data["groups"], data["series"]
    names = [wrapped(own["name"].replace("\n", " "), _NAME) for own in series]
    lines = [name.count("\n") + 1 for name in names]
    headed = len(series) > 1
    each = sum(lines) + (1.5 if headed else 0.4)
    figure = new_figure(data["title"], _ROW * each * len(groups) + 0.6)
    axes = figure.subplots()
    ticks: list[tuple[float, str]] = []
    for at, group in enumerate(groups):
        y, heading = each * at, " ".join(group.replace("-\n", "-").split())
        if headed:
            axes.text(0.01, y + 0.75, heading, **_inside(axes), weight="bold")
            y += 1.25
        for number, (own, name) in enumerate(zip(series, names, strict=True)):
            middle = y + lines[number] / 2
            _bar(axes, middle, own, at, COLOURS[number % len(COLOURS)])
            ticks.append((middle, name if headed else heading))
            y += lines[number]
    axes.set_ylim(each * len(groups) + 0.2, -0.1)
    axes.set_yticks([y for y, _ in ticks], [name for _, name in ticks], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color="black", linewidth=0.8)
    if "line" in data:
        axes.axvline(data["line"], color=GREY, linewidth=1, linestyle=":")
    axes.set_xlabel(data["y"])
    settle(figure)
    return figure


def _bar(axes: Any, y: float, series: Data, at: int, colour: str) -> None:
    value = series["values"][at]
    beside = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": SMALL}
    axes.text(1.02, y, "–" if value is None else _number(value), **beside)
    if value is None:
        return
    axes.barh(y, value, 0.8, color=colour, alpha=0.55 if "low" in series else 0.9)
    axes.plot([value], [y], marker="|", color="black", markersize=5, linestyle="none")
    if "low" in series:
        axes.hlines(y, series["low"][at], series["high"][at], color="black", linewidth=1.1)


def _inside(axes: Any) -> dict[str, Any]:
    return {
        "transform": axes.get_yaxis_transform(),
        "va": "center",
        "fontsize": SMALL,
        "parse_math": False,
    }


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
