"""Figures name every series, no label covers another, and ticks are plain."""

from __future__ import annotations

from typing import Any

import pytest
from matplotlib.text import Text
from places import ROOT

from faststeer.experiments import Figure, Result
from faststeer.experiments.charts import make_figure
from faststeer.utils.plot_style import SMALL, contrast

RESULTS = ROOT / "docs" / "results"
# One committed figure of each shape: many lines, few lines, bars, a map, histograms, small panels.
SHAPES = {
    ("broad-skills", "general_coding"),
    ("broad-skills", "crosswise"),
    ("broad-skills", "activation_distribution"),
    ("traits", "growth"),
    ("traits", "interactions"),
    ("behaviours", "simultaneous_steering"),
    ("behaviours", "all_results_layer_10"),
}


def committed(folder: str, name: str) -> Figure:
    [figure] = [own for own in Result.read(RESULTS / folder).figures if own.name == name]
    return figure


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(("folder", "name"), sorted(SHAPES))
def test_a_committed_figure_names_its_series_and_no_label_covers_another(
    folder: str, name: str
) -> None:
    own = committed(folder, name)
    figure = make_figure(own.kind, own.data)
    texts = [text for axes in figure.axes for text in axes_texts(axes)]
    shown = {words(text.get_text()) for text in texts}
    wanted = [part["name"] for part in series_of(own)] + list(own.data.get("groups", []))
    assert {words(part) for part in wanted} <= shown
    assert min(text.get_fontsize() for text in texts) >= SMALL
    boxes = [text.get_window_extent() for text in texts]
    for at, one in enumerate(boxes):
        clashes = [texts[n].get_text() for n in range(at) if inner(one).overlaps(inner(boxes[n]))]
        assert not clashes, (texts[at].get_text(), clashes)
        assert figure.bbox.x0 - 1 <= one.x0
        assert one.x1 <= figure.bbox.x1 + 1
    assert not any(mark in text for text in shown for mark in ("10^", "×", "$", "e+", "e-"))


def inner(one: Any) -> Any:
    """Return a box without the blank half pixel around its letters."""
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(one.x0 + 0.5, one.y0 + 0.5, one.x1 - 0.5, one.y1 - 0.5)


def axes_texts(axes: Any) -> list[Text]:
    """Return the texts that are drawn: labels, ticks inside the limits, titles."""
    found = [*axes.texts, axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        low, high = sorted(limits)
        for tick in axis.get_major_ticks():
            if low <= tick.get_loc() <= high and tick.label1.get_visible():
                found.append(tick.label1)
    return [own for own in found if own.get_text() and axes.axison]


def series_of(figure: Figure) -> list[Any]:
    if figure.kind == "matrix":
        return [{"name": name} for name in figure.data["rows"]]
    panels = figure.data.get("panels", [figure.data])
    # A panel of one curve is named by its axis.
    return [one for part in panels if len(part["series"]) > 1 for one in part["series"]]


def test_intervals_that_would_coincide_stand_side_by_side() -> None:
    series = [
        {"name": name, "x": [1, 2, 3], "y": [1, 1, 1], "low": [0, 0, 0], "high": [2, 2, 2]}
        for name in ("one", "two")
    ]
    panel = {"y": "score", "series": series}
    [axes] = make_figure("curves", {"title": "t", "x": "x", "panels": [panel]}).axes
    first, second = (line.get_xdata() for line in axes.lines[:2])
    assert all(b - a > 0.1 for a, b in zip(first, second, strict=True))
    [alone] = make_figure(
        "curves", {"title": "t", "x": "x", "panels": [{"y": "score", "series": series[:1]}]}
    ).axes
    assert list(alone.lines[0].get_xdata()) == [1, 2, 3]


def test_many_intervals_get_axes_of_their_own() -> None:
    x = list(range(12))
    series = [
        {"name": name, "x": x, "y": x, "low": x, "high": x} for name in ("one", "two", "three")
    ]
    figure = make_figure(
        "curves", {"title": "t", "x": "x", "panels": [{"y": "score", "series": series}]}
    )
    named = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in named] == ["one", "two", "three"]


def test_lines_that_lose_accuracy_run_from_left_to_right() -> None:
    falling = {"name": "a", "x": [100, 60, 5], "y": [100, 90, 60]}
    panel = {"y": "text", "series": [falling], "y_range": [0, 104]}
    for limits in ([0, 104], [104, 0]):
        figure = make_figure(
            "curves", {"title": "t", "x": "code", "panels": [panel], "x_range": limits}
        )
        assert figure.axes[0].get_xlim() == (104, 0)


def test_numbers_of_a_map_can_be_read_on_their_colours() -> None:
    values = [[-1.0, -0.75, -0.5, 0.0], [0.5, 0.75, 1.0, None]]
    data = {"title": "t", "rows": ["a", "b"], "columns": list("cdef"), "values": values}
    figure = make_figure("matrix", data | {"label": "change", "reach": 1.0})
    [axes] = figure.axes
    [image] = axes.images
    for text in axes.texts:
        x, y = map(int, text.get_position())
        value = values[y][x]
        fill = "white" if value is None else image.cmap(image.norm(value))
        assert contrast(text.get_color(), fill) >= 4.5
    assert {text.get_color() for text in axes.texts} == {"black", "white"}


def test_wide_names_of_columns_are_upright_and_narrow_ones_are_not() -> None:
    data = {"title": "t", "rows": ["a"], "label": "change", "reach": 1.0, "values": [[0.5] * 6]}
    turned = {}
    for name in ("sea", "a long name of a trait"):
        [axes] = make_figure("matrix", data | {"columns": [name] * 6}).axes
        turned[name] = axes.get_xticklabels()[0].get_rotation()
    assert turned == {"sea": 0, "a long name of a trait": 90}


def test_an_unknown_bar_is_a_dash() -> None:
    series = [{"name": name, "values": [0.25, None]} for name in ("add", "subtract")]
    figure = make_figure(
        "bars", {"title": "t", "y": "score", "groups": ["a", "b"], "series": series}
    )
    [axes] = figure.axes
    assert sorted(text.get_text() for text in axes.texts) == ["0.25", "0.25", "a", "b", "–", "–"]
    assert len(axes.patches) == 2
