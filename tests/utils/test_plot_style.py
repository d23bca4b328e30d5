"""Figures have plain ticks, legible colours, and text that can be read at 400 pixels."""

from __future__ import annotations

import pytest

from faststeer.utils.plot_style import (
    COLOURS,
    SMALL,
    WIDTH,
    contrast,
    diverging_map,
    figure_style,
    ink_on,
    log_ticks,
    new_figure,
    plain,
    plain_log_axis,
    readable,
    wrapped,
)

LEGIBLE = 4.5  # contrast of text, WCAG 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (600.0, "600"),
        (0.05, "0.05"),
        (12000.0, "12,000"),
        (0.0, "0"),
        (-2.5, "-2.5"),
        (3e-9, "3e-09"),
    ],
)
def test_numbers_are_plain(value: float, text: str) -> None:
    assert plain(value) == text


@pytest.mark.parametrize(
    ("low", "high"), [(520, 731), (5, 731), (0.5, 600), (3.1, 4.9e3), (1, 1e9), (0.8, 1.3)]
)
def test_a_logarithmic_axis_has_some_round_ticks_within_it(low: float, high: float) -> None:
    ticks = log_ticks(low, high)
    assert 3 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(ticks)


def test_ticks_are_digits_where_matplotlib_writes_powers() -> None:
    with figure_style():
        figure = new_figure("title", 2)
        axes = figure.subplots()
        axes.plot([0, 1], [520, 731])
        axes.set_yscale("log")
        figure.draw_without_rendering()
        usual = [text.get_text() for text in axes.get_yticklabels(which="both")]
        assert any("10^" in text for text in usual)
        plain_log_axis(axes.yaxis, 500, 760)
        figure.draw_without_rendering()
    shown = [text.get_text() for text in axes.get_yticklabels(which="both")]
    assert shown == ["500", "600", "700"]
    assert not any("^" in text or "×" in text or "$" in text for text in shown)


def test_text_on_every_colour_of_a_map_can_be_read() -> None:
    colours = diverging_map()
    fills = [colours(step / 100) for step in range(101)]
    assert min(contrast("black", fill) for fill in fills) < LEGIBLE  # black alone cannot be
    assert min(contrast(ink_on(fill), fill) for fill in fills) >= LEGIBLE


def test_names_in_the_colour_of_their_line_can_be_read_on_white() -> None:
    assert min(contrast(colour, "white") for colour in COLOURS) < LEGIBLE
    assert all(contrast(readable(colour), "white") >= LEGIBLE for colour in COLOURS)


def test_text_is_nine_pixels_high_where_a_picture_is_400_pixels_wide() -> None:
    assert SMALL / 72 * 400 / WIDTH >= 9


def test_a_long_title_is_inside_the_figure_and_above_the_axes() -> None:
    with figure_style():
        figure = new_figure("The title of a figure $x$ " * 6, 2, "and what follows it " * 6)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1])
        figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts]
    assert len(boxes) == 2
    for box in boxes:
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert axes.get_tightbbox().y1 < box.y0
        assert box.y1 <= figure.bbox.y1
    assert not boxes[0].overlaps(boxes[1])
    assert wrapped("a b\nc", 10) == "a b\nc"
