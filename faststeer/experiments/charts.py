"""Figures of a few kinds, each drawn from plain data that are kept beside it as JSON.

========== =======================================================================================
kind       data
========== =======================================================================================
curves     ``title``, ``x``, optionally ``x_range`` and ``mark`` (a value to compare at);
           ``panels``, one below the other: ``y``, ``series`` of ``name``, ``x``, ``y`` and
           optionally ``low`` and ``high`` (a band), ``style``, ``notes`` (text at each point);
           optionally ``y_range``, ``diagonal``, ``line`` (a height to compare with).
bars       ``title``, ``y``, ``groups``; ``series`` of ``name``, ``values`` (None: no bar) and
           optionally ``low`` and ``high``. Optionally ``line``, a height to compare with.
histograms ``title``, ``x``; ``panels``, side by side: ``title``, ``edges``, ``series`` of
           ``name`` and ``counts``, drawn on a logarithmic scale.
matrix     ``title``, ``rows``, ``columns``, ``values`` (None: unknown), ``label``, ``reach``: the
           value of the strongest colour. Optionally ``x`` and ``y``.
========== =======================================================================================
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

Data = Mapping[str, Any]

# Okabe and Ito's palette, safe for colour blindness; black last, for baselines.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
_MARKERS = "osD^vP*X"
_DARK = 0.6  # share of the strongest colour on which black cannot be read
_STYLES = {"solid": "-", "dashed": "--", "dotted": ":"}


def draw(kind: str, data: Data) -> bytes:
    """Draw a figure as PNG. Equal data give equal bytes.

    Raises:
        ValueError: an unknown kind, data of another kind, or matplotlib is missing.
    """
    if kind not in KINDS:
        raise ValueError(f"figure kind {kind!r} is unknown; there are {', '.join(KINDS)}")
    require_charts()
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    try:
        KINDS[kind](figure, data)
    except KeyError as error:
        raise ValueError(f"a figure of {kind} needs {error}") from error
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120, metadata={"Software": None})
    return png.getvalue()


def require_charts() -> None:
    """Raise ValueError, before any long work, where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise ValueError("figures need matplotlib: pip install 'faststeer[plots]'")


def _curves(figure: Any, data: Data) -> None:
    panels = data["panels"]
    heights = [2 if number == 0 else 1 for number in range(len(panels))]
    figure.set_size_inches(8.4, 5.6 + 2.2 * (len(panels) - 1))
    figure.suptitle(data["title"], fontsize=12)
    grid = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        for number, series in enumerate(panel["series"]):
            _curve(axes, number, series)
        if panel.get("diagonal"):
            reach = (0, max(max(own["x"], default=1) for own in panel["series"]))
            axes.plot(reach, reach, color="grey", linewidth=1, linestyle=":", label="equal loss")
        if "line" in panel:
            axes.axhline(panel["line"], color="grey", linewidth=1, linestyle=":")
        axes.set_ylabel(panel["y"])
        if "y_range" in panel:
            axes.set_ylim(*panel["y_range"])
        axes.grid(alpha=0.3)
        if len(panel["series"]) > 1:
            axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
        if "mark" in data:
            axes.axvline(data["mark"], color="grey", linewidth=1, linestyle=":")
    grid[-1, 0].set_xlabel(data["x"])
    if "x_range" in data:
        grid[-1, 0].set_xlim(*data["x_range"])


def _curve(axes: Any, number: int, series: Data) -> None:
    colour = COLOURS[number % len(COLOURS)]
    style = _STYLES[series.get("style", "solid")]
    marker = _MARKERS[(number + number // len(COLOURS)) % len(_MARKERS)]
    axes.plot(
        series["x"],
        series["y"],
        linestyle=style,
        marker=marker,
        markersize=5,
        color=colour,
        label=series["name"],
    )
    if "low" in series:
        axes.fill_between(
            series["x"], series["low"], series["high"], color=colour, alpha=0.12, linewidth=0
        )
    for x, y, note in zip(series["x"], series["y"], series.get("notes", ()), strict=False):
        axes.annotate(
            note, (x, y), textcoords="offset points", xytext=(5, 4), fontsize=6.5, color=colour
        )


def _bars(figure: Any, data: Data) -> None:
    groups, series = data["groups"], data["series"]
    longest = max(len(line) for name in groups for line in name.split("\n"))
    across = max(0.2 * (len(series) + 1), 0.1 * longest)  # inches of a group
    figure.set_size_inches(max(7.0, 2.2 + across * len(groups)), 4.8)
    axes = figure.subplots()
    axes.set_title(data["title"], fontsize=12)
    width = 0.84 / len(series)
    for number, own in enumerate(series):
        shift = (number - (len(series) - 1) / 2) * width
        known = [at for at, value in enumerate(own["values"]) if value is not None]
        values = [own["values"][at] for at in known]
        errors = None
        if "low" in own:
            errors = [
                [value - own["low"][at] for at, value in zip(known, values, strict=True)],
                [own["high"][at] - value for at, value in zip(known, values, strict=True)],
            ]
        axes.bar(
            [at + shift for at in known],
            values,
            width,
            yerr=errors,
            error_kw={"elinewidth": 0.8, "alpha": 0.7},
            color=COLOURS[number % len(COLOURS)],
            hatch="//" if number >= len(COLOURS) else None,
            edgecolor="white",
            linewidth=0.3,
            label=own["name"],
        )
    if "line" in data:
        axes.axhline(data["line"], color="grey", linewidth=1, linestyle=":")
    axes.set_axisbelow(True)
    axes.grid(axis="y", alpha=0.3)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylabel(data["y"])
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _histograms(figure: Any, data: Data) -> None:
    panels = data["panels"]
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure.set_size_inches(4.2 * across + 1, 3.4 * down + 0.8)
    figure.suptitle(data["title"], fontsize=12)
    every = figure.subplots(down, across, squeeze=False, sharey=True).flatten()
    for axes in every[len(panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(every, panels, strict=False):
        for number, series in enumerate(panel["series"]):
            axes.stairs(
                series["counts"],
                panel["edges"],
                color=COLOURS[number % len(COLOURS)],
                label=series["name"],
                linewidth=1.3,
            )
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.7)
        axes.set_title(panel["title"], fontsize=10)
        axes.set_xlabel(data["x"])
        axes.set_ylabel("components (log scale)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)


def _matrix(figure: Any, data: Data) -> None:
    rows, columns, values = data["rows"], data["columns"], data["values"]
    figure.set_size_inches(3.4 + 1.05 * len(columns), 2.2 + 0.55 * len(rows))
    axes = figure.subplots()
    axes.set_title(data["title"], fontsize=12)
    reach = data["reach"]
    grid = [[float("nan") if value is None else value for value in row] for row in values]
    image = axes.imshow(grid, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto", alpha=0.8)
    figure.colorbar(image, ax=axes, label=data["label"])
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            shown = "–" if value is None else f"{value:+.3f}"
            dark = value is not None and abs(value) > _DARK * reach
            ink = "white" if dark else "black"
            axes.text(x, y, shown, ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(data.get("x", ""))
    axes.set_ylabel(data.get("y", ""))


KINDS: dict[str, Callable[[Any, Data], None]] = {
    "curves": _curves,
    "bars": _bars,
    "histograms": _histograms,
    "matrix": _matrix,
}
