"""The picture of a sweep: its first score over the coefficient, a line per vector and layer."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from faststeer.diagnostics.tuning.figure import save
from faststeer.evaluate.records import Record
from faststeer.evaluate.score_intervals import score_intervals
from faststeer.utils.plot_labels import End, label_ends, settle
from faststeer.utils.plot_style import (
    GREY,
    figure_style,
    new_figure,
    require_matplotlib,
    series_style,
)


def draw(records: Sequence[Record], path: str | PathLike[str]) -> None:
    """Write the picture of what `sweep` returned, as PNG, SVG or PDF.

    Raises:
        ValueError: matplotlib is not installed, or the records have no score to draw.
    """
    require_matplotlib()
    name = _score(records[0])
    before = _value(records[0], name)
    if before is None:
        raise ValueError(f"the unsteered model has no {name}, so there is nothing to draw")
    lines = _lines(records, name)
    with figure_style():
        note = "bars: 95 % intervals of the change from unsteered; dotted: unsteered"
        figure = new_figure(f"{name} over the coefficient", 3.2, note)
        axes = figure.subplots()
        axes.axhline(before, color=GREY, linestyle=":", linewidth=1)
        ends = []
        for number, (label, points) in enumerate(lines.items()):
            style = series_style(number)
            coefficients = [0.0, *(c for c, _, _ in points)]
            order = sorted(range(len(coefficients)), key=coefficients.__getitem__)
            values = [before, *(value for _, value, _ in points)]
            xs, ys = [coefficients[n] for n in order], [values[n] for n in order]
            axes.plot(xs, ys, **style)
            for c, value, (low, high) in points:
                axes.plot([c, c], [low, high], color=style["color"], linewidth=0.8)
                assert value is not None
            ends.append(End(xs[-1], ys[-1], label, style["color"]))
        axes.set_xlabel("coefficient")
        axes.set_ylabel(name, parse_math=False)
        label_ends(axes, ends)
        settle(figure)
        save(figure, path)


def _score(record: Record) -> str:
    """Return the name of the first score that has an interval."""
    scores = record["scores"]
    for name in ("probability", "margin"):
        if isinstance(scores.get(name), float):
            return name
    return f"{next(iter(scores))}.accuracy"


def _value(record: Record, name: str) -> float | None:
    scores: Any = record["scores"]
    for part in name.rsplit(".", 1):
        scores = scores[part]
    found: float | None = scores
    return found


def _lines(
    records: Sequence[Record], name: str
) -> dict[str, list[tuple[float, float, tuple[float, float]]]]:
    """Return coefficient, score and interval of each vector and layer; broken ones are left out."""
    found: dict[str, list[tuple[float, float, tuple[float, float]]]] = {}
    vectors = {vector for record in records for vector in record["steering"]}
    for record in records[1:]:
        value = _value(record, name)
        if value is None:
            continue
        interval = score_intervals(record, records[0]).get(name, (value, value))
        for vector, by_layer in record["steering"].items():
            for layer, coefficient in by_layer.items():
                label = f"layer {layer}" if len(vectors) == 1 else f"{vector}, layer {layer}"
                found.setdefault(label, []).append((coefficient, value, interval))
    return found
