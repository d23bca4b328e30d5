"""Labels in figures that do not overlap: at the ends of lines, at points, and inside cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from faststeer.utils.plot_style import SMALL, readable

_BESIDE = 1.03  # of the axes' width, where labels of lines begin
_GAP = 1.0  # points between labels


class End(NamedTuple):
    """The last point of a line, and the line's name and colour."""

    x: float
    y: float
    name: str
    colour: str


def label_ends(axes: Any, ends: Sequence[End]) -> None:
    """Write each line's name to the right of the axes, joined to the line's last point.

    `settle` spreads the names so that none covers another.
    """
    for end in ends:
        label = axes.text(
            _BESIDE,
            0.5,
            end.name,
            transform=axes.transAxes,
            va="center",
            fontsize=SMALL,
            linespacing=1.15,
            color=readable(end.colour),
            parse_math=False,
        )
        label.set_gid(end)


def settle(figure: Any) -> None:
    """Lay the figure out, spread its `label_ends`, and keep the layout from then on."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        labels = [text for text in axes.texts if isinstance(text.get_gid(), End)]
        if labels:
            _spread_labels(axes, labels)


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Return centres as close to `wanted` as intervals of `sizes` allow without overlapping.

    They minimise the sum of squared distances to `wanted` (isotonic regression by pooling adjacent
    violators), and are then moved inside `low` to `high` as far as there is room.
    """
    order = sorted(range(len(wanted)), key=lambda own: wanted[own])
    offsets, total = [], 0.0
    for own in order:
        offsets.append(total + sizes[own] / 2)
        total += sizes[own]
    blocks: list[tuple[float, int]] = []  # the sum of slack positions, and their number
    for own, offset in zip(order, offsets, strict=True):
        blocks.append((wanted[own] - offset, 1))
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            (last, many), (before, more) = blocks.pop(), blocks.pop()
            blocks.append((before + last, more + many))
    slack = [_mean(block) for block in blocks for _ in range(block[1])]
    placed = [max(low, min(own, high - total)) for own in slack]
    centres = [0.0] * len(wanted)
    for own, at, offset in zip(order, placed, offsets, strict=True):
        centres[own] = at + offset
    return centres


def note_points(axes: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Write a small text at each point (x, y, text, colour) where it covers no text and no line.

    Points come in order of importance; a text without room is left out. Call after `settle`.
    """
    renderer = axes.figure.canvas.get_renderer()
    taken: list[Any] = []
    lines = [line.get_transform().transform_path(line.get_path()) for line in axes.lines]
    inside = axes.get_window_extent(renderer)
    for x, y, text, colour in points:
        for right, up in ((5, 5), (-5, -5), (-5, 5), (5, -5), (0, 9), (0, -9)):
            note = axes.annotate(
                text,
                (x, y),
                xytext=(right, up),
                textcoords="offset points",
                ha="left" if right > 0 else "right" if right < 0 else "center",
                va="center",
                fontsize=SMALL,
                color=readable(colour),
                parse_math=False,
            )
            box = note.get_window_extent(renderer)
            free = not any(box.overlaps(own) for own in taken)
            free = free and not any(path.intersects_bbox(box, filled=False) for path in lines)
            if free and inside.containsx(box.x0) and inside.containsx(box.x1):
                taken.append(box)
                break
            note.remove()


def fit_text(text: Any, width: float) -> None:
    """Shorten a drawn text with … until it is at most `width` pixels wide. Call after `settle`."""
    renderer = text.axes.figure.canvas.get_renderer()
    full = text.get_text()
    keep = len(full)
    while keep > 1 and text.get_window_extent(renderer).width > width:
        keep -= 1
        text.set_text(full[:keep].rstrip() + "…")


def _spread_labels(axes: Any, labels: Sequence[Any]) -> None:
    from matplotlib.lines import Line2D

    renderer = axes.figure.canvas.get_renderer()
    inside = axes.get_window_extent(renderer)
    gap = _GAP * axes.figure.dpi / 72
    heights = [label.get_window_extent(renderer).height + gap for label in labels]
    ends = [label.get_gid() for label in labels]
    points = axes.transData.transform([(end.x, end.y) for end in ends])
    # A point beyond the limits of the axes counts as one at their edge.
    shares = axes.transAxes.inverted().transform(points).clip(0, 1)
    wanted = [inside.y0 + float(y) * inside.height for _, y in shares]
    centres = spread(wanted, heights, inside.y0, inside.y1)
    for label, end, (x, y), centre in zip(labels, ends, shares, centres, strict=True):
        at = (centre - inside.y0) / inside.height
        label.set_position((_BESIDE, at))
        style = {"color": end.colour, "linewidth": 0.7, "alpha": 0.7, "clip_on": False}
        leader = Line2D([x, _BESIDE - 0.01], [y, at], transform=axes.transAxes, **style)
        axes.add_artist(leader)


def _mean(block: tuple[float, int]) -> float:
    return block[0] / block[1]
