"""The style that all figures share: colours, sizes, plain ticks, and PNG files.

Figures are 5.2 inches wide, so that text of 8.5 points is 9 pixels high where the picture is shown
400 pixels wide, as on a telephone.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any

WIDTH = 5.2  # inches of a figure
SMALL = 8.5  # points of the smallest text
_DPI = 140
_LINE = 52  # characters of a title's line
_MOST_TICKS = 8  # of a logarithmic axis

# Okabe and Ito's palette, safe for colour blindness; grey and black last, for baselines.
BLUE, VERMILLION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
ORANGE, SKY, GREY, BLACK = "#e69f00", "#56b4e9", "#7f7f7f", "#000000"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, GREY, BLACK)
MARKERS = "osD^vP*X"

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-9, 9),  # no powers of ten
}


def require_matplotlib() -> None:
    """Raise ValueError, before any long work, where matplotlib is missing."""
    if find_spec("matplotlib") is None:
        raise ValueError("figures need matplotlib: pip install 'faststeer[plots]'")


@contextmanager
def figure_style() -> Iterator[None]:
    """Apply the style to figures that are created inside."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(title: str, height: float, below: str = "") -> Any:
    """Return an empty figure of `height` inches under a title; call inside `figure_style`.

    Args:
        title: the bold first lines, wrapped to the figure's width; not parsed as mathematics.
        height: inches of what is below the title.
        below: plain lines that follow the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    heading, rest = wrapped(title, _LINE), wrapped(below, _LINE + 8)
    under = 0.06 + 0.185 * _lines(heading)  # inches from the top
    room = under + 0.16 * _lines(rest) + 0.06
    figure: Any = Figure((WIDTH, height + room), layout="constrained")
    FigureCanvasAgg(figure)
    at: dict[str, Any] = {
        "x": 0.01,
        "va": "top",
        "linespacing": 1.2,
        "parse_math": False,
        "in_layout": False,
    }
    figure.text(y=1 - 0.06 / (height + room), s=heading, fontsize=10.5, weight="bold", **at)
    figure.text(y=1 - under / (height + room), s=rest, **at)
    figure.get_layout_engine().set(rect=(0, 0, 1, height / (height + room)))
    return figure


def as_png(figure: Any) -> bytes:
    """Return a figure as PNG. Equal figures give equal bytes."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=_DPI, metadata={"Software": None})
    return png.getvalue()


def wrapped(text: str, width: int) -> str:
    """Return a text in lines of at most `width` characters; lines of its own are kept."""
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, width))


def plain_log_axis(
    axis: Any, low: float, high: float, ticks: Sequence[float] | None = None
) -> None:
    """Make an axis logarithmic from `low` to `high`, with ticks in plain digits such as 600.

    Of given ticks only those are shown whose labels have room beside the previous one's.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    apart = (high / low) ** (1 / _MOST_TICKS)
    chosen: list[float] = []
    for tick in log_ticks(low, high) if ticks is None else ticks:
        if not chosen or tick >= apart * chosen[-1]:
            chosen.append(tick)
    axis.set_major_locator(FixedLocator(chosen))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))


def log_ticks(low: float, high: float) -> list[float]:
    """Return three to seven round values between two positive ones, for a logarithmic axis."""
    from matplotlib.ticker import MaxNLocator

    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        within = [tick for tick in ticks if low <= tick <= high]
        if 3 <= len(within) <= 7:
            return within
    if len(within) > 7:
        return within[:: -(-len(within) // 7)]
    even = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in even if low <= tick <= high]


def plain(value: float) -> str:
    """Return a number in plain digits: 600, 0.05, 12,000."""
    text = f"{value:,.6f}".rstrip("0").rstrip(".")
    return text if value == 0 or float(text.replace(",", "")) else f"{value:.2g}"


def diverging_map() -> Any:
    """Return the colours of a map: blue below zero, white at zero, vermillion above."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue_vermillion", [BLUE, "#ffffff", VERMILLION])


def ink_on(colour: Any) -> str:
    """Return black or white, whichever contrasts more with a background colour."""
    return "black" if contrast("black", colour) >= contrast("white", colour) else "white"


@cache
def readable(colour: str) -> str:
    """Return a colour, darkened until text in it reads on white (contrast 4.5, WCAG 2)."""
    from matplotlib.colors import to_hex, to_rgb

    shade: tuple[float, ...] = to_rgb(colour)
    while contrast(shade, "white") < 4.5:
        shade = tuple(0.95 * part for part in shade)
    return str(to_hex(shade))


def contrast(one: Any, other: Any) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2)."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Any) -> float:
    from matplotlib.colors import to_rgb

    parts = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in to_rgb(colour))
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def series_style(number: int) -> dict[str, Any]:
    """Return colour and marker of a series; they repeat together only after 64 series."""
    turn = number // len(COLOURS)
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[(number + turn) % len(MARKERS)],
    }


def span(values: Sequence[float], margin: float = 0.05) -> tuple[float, float]:
    """Return the least and the largest value with a margin, for the limits of an axis."""
    low, high = min(values), max(values)
    extra = margin * ((high - low) or abs(high) or 1.0)
    return low - extra, high + extra


def _lines(text: str) -> int:
    return text.count("\n") + 1 if text else 0
