"""Labels of figures are spread without overlapping, and cut to fit their cells."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faststeer.utils.plot_labels import End, fit_text, label_ends, note_points, settle, spread
from faststeer.utils.plot_style import BLUE, figure_style, new_figure

places = st.lists(st.floats(0, 100), min_size=1, max_size=12)


def overlaps(centres: list[float], sizes: list[float]) -> bool:
    order = sorted(zip(centres, sizes, strict=True))
    return any(a + size / 2 > b - other / 2 + 1e-6 for (a, size), (b, other) in pairwise(order))


@given(wanted=places, data=st.data())
def test_labels_do_not_overlap_and_keep_their_order(
    wanted: list[float], data: st.DataObject
) -> None:
    sizes = data.draw(st.lists(st.floats(1, 9), min_size=len(wanted), max_size=len(wanted)))
    centres = spread(wanted, sizes, -1000, 1000)
    assert not overlaps(centres, sizes)
    for one, a in zip(wanted, centres, strict=True):
        for other, b in zip(wanted, centres, strict=True):
            assert a <= b or one >= other


def test_labels_with_room_stay_and_others_move_by_equal_shares() -> None:
    assert spread([10, 50, 90], [8, 8, 8], 0, 100) == pytest.approx([10, 50, 90])
    assert overlaps([50, 50], [8, 8])
    assert spread([50, 50], [8, 8], 0, 100) == pytest.approx([46, 54])


def test_labels_at_the_edge_are_moved_inside() -> None:
    assert spread([0, 0, 99], [10, 10, 10], 0, 100) == pytest.approx([5, 15, 95])
    assert spread([98, 99], [10, 10], 0, 100) == pytest.approx([85, 95])


def test_names_of_lines_that_end_together_are_apart_in_the_picture() -> None:
    names = ["first", "second\non two lines", "third"]
    with figure_style():
        figure = new_figure("title", 2)
        axes = figure.subplots()
        for _ in names:
            axes.plot([0, 1], [0, 1])
        label_ends(axes, [End(1, 1, name, BLUE) for name in names])
        figure.draw_without_rendering()
        assert len({text.get_position() for text in axes.texts}) == 1  # not apart without settle
        settle(figure)
    spans = [own.get_window_extent() for own in axes.texts]
    assert [own.get_text() for own in axes.texts] == names
    assert not any(a.overlaps(b) for at, a in enumerate(spans) for b in spans[:at])
    assert all(figure.bbox.contains(*own.min) and figure.bbox.contains(*own.max) for own in spans)


def test_a_line_that_ends_outside_of_the_axes_is_named_at_their_edge() -> None:
    with figure_style():
        figure = new_figure("title", 2)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 500])
        axes.set(xlim=(0, 0.5), ylim=(0, 1))
        label_ends(axes, [End(1, 500, "far", BLUE)])
        settle(figure)
    [label] = axes.texts
    assert axes.get_window_extent().height > 0.5 * figure.bbox.height
    assert 0.8 < label.get_position()[1] <= 1
    *_, leader = axes.lines
    assert leader.get_xdata()[0] == 1  # the share of the axes' width
    assert leader.get_ydata()[0] == 1


def test_a_note_without_room_is_left_out() -> None:
    with figure_style():
        figure = new_figure("title", 3)
        axes = figure.subplots()
        axes.scatter([0.2, 0.8], [0.5, 0.5])
        settle(figure)
    note_points(axes, [(0.2, 0.5, "one", BLUE), (0.8, 0.5, "two", BLUE)])
    assert [own.get_text() for own in axes.texts] == ["one", "two"]
    note_points(axes, [(0.5, 0.5, "a", BLUE)] + [(0.5, 0.5, "x" * 30, BLUE)] * 30)
    shown = [own.get_text() for own in axes.texts]
    assert shown.count("a") == 1
    assert shown.count("x" * 30) < 30


def test_a_text_is_cut_to_its_width() -> None:
    figure = new_figure("title", 2)
    axes = figure.subplots()
    long, short = axes.text(0, 0, "antidisestablishmentarianism"), axes.text(0, 1, "ly")
    settle(figure)
    assert long.get_window_extent().width > 80
    for text in (long, short):
        fit_text(text, 80)
    assert long.get_window_extent().width <= 80
    assert long.get_text().startswith("antidis")
    assert long.get_text().endswith("…")
    assert short.get_text() == "ly"
