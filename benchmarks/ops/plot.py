"""Plot a result: the share of the copy bandwidth, and the time, against the number of rows.

    python benchmarks/ops/plot.py result.json    # makes result.png

The bytes are the minimum that a call must move; a variant that moves more has a lower share.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from variants import COMPILED, COMPILED_UNSTEERED, EAGER, FRESH, INTO, LIGER, STOCK

from faststeer.utils.plot_labels import End, label_ends, settle
from faststeer.utils.plot_style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    as_png,
    figure_style,
    new_figure,
    plain_log_axis,
    wrapped,
)

Record = dict[str, Any]

# faststeer is a thick line; variants that add no vectors are dashed.
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    FRESH: ("faststeer", {"color": VERMILLION, "linewidth": 2.6, "marker": "o", "zorder": 5}),
    INTO: ("faststeer, into given tensors", {"color": ORANGE, "marker": "o", "zorder": 4}),
    COMPILED: ("torch.compile", {"color": BLUE, "marker": "s"}),
    EAGER: ("eager, vectors summed before", {"color": BLACK, "marker": "^"}),
    LIGER: ("Liger, unsteered", {"color": GREEN, "marker": "D", "linestyle": "--"}),
    COMPILED_UNSTEERED: (
        "torch.compile, unsteered",
        {"color": SKY, "marker": "s", "linestyle": "--"},
    ),
    STOCK: ("eager, unsteered", {"color": GREY, "marker": "v", "linestyle": "--"}),
}
_NAME = 18  # characters of a line of a name beside the axes


def draw(result: Record, path: Path) -> None:
    """Write the picture, or print that matplotlib is missing."""
    try:
        with figure_style():
            path.write_bytes(as_png(make_figure(result)))
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)


def make_figure(result: Record) -> Any:
    """Return per op the share of the bandwidth above the time; call inside `figure_style`."""
    drawn = panels(result["cases"])
    machine = result["machine"]
    figure = new_figure(
        f"{machine.get('gpu') or machine['cpu']}",
        4.4 * len(drawn),
        f"copy {result['copy_bytes_per_second'] / 1e9:,.0f} GB/s, hidden size "
        f"{result['settings']['hidden']}, {_cache(result['cases'])} caches",
    )
    grid = figure.subplots(2 * len(drawn), 1, squeeze=False)[:, 0]
    for shares, times, (title, records) in zip(grid[::2], grid[1::2], drawn.items(), strict=True):
        rows = sorted({record["rows"] for record in records})
        shares.set_title(title)
        shares.axhline(1, color="black", linewidth=0.8)
        shares.set_ylabel("share of the\ncopy bandwidth")
        times.set(ylabel="time of a call, µs", xlabel="rows (tokens)")
        for axes, quantity in ((shares, "share_of_copy"), (times, "microseconds")):
            values = _lines(axes, records, quantity)
            plain_log_axis(axes.xaxis, rows[0] / 1.3, 1.3 * rows[-1], rows)
            if axes is times:
                plain_log_axis(axes.yaxis, min(values) / 1.3, 1.3 * max(values))
            else:
                axes.set_ylim(bottom=0)
    settle(figure)
    return figure


def _lines(axes: Any, records: list[Record], quantity: str) -> list[float]:
    """Draw every variant that was measured, with its name at the line's end; return the values."""
    ends, drawn = [], []
    for name, (label, style) in LINES.items():
        points = [record for record in records if name in record[quantity]]
        if points:
            values = [record[quantity][name] for record in points]
            axes.plot([record["rows"] for record in points], values, **style)
            shown = wrapped(label, _NAME)
            ends.append(End(points[-1]["rows"], values[-1], shown, style["color"]))
            drawn += values
    label_ends(axes, ends)
    return drawn


def panels(records: list[Record]) -> dict[str, list[Record]]:
    """Return the records to draw, by title: each op's first dtype, with about four vectors.

    The first op may have two panels, for shared and for per-sequence entries; the others have one.
    """
    shown = [
        record for record in records if record["cache"] == _cache(records) and record["groups"] == 1
    ]
    dtype_of: dict[str, str] = {}
    for record in shown:
        dtype_of.setdefault(record["op"], record["dtype"])
    made: dict[str, list[Record]] = {}
    for kind in dtype_of.items():
        of_kind = [record for record in shown if (record["op"], record["dtype"]) == kind]
        vectors = min((record["vectors"] for record in of_kind), key=lambda n: abs(n - 4))
        of_op: dict[str, list[Record]] = {}
        for record in sorted(of_kind, key=lambda record: record["rows"]):
            if record["vectors"] == vectors:
                of_op.setdefault(_title(record), []).append(record)
        made |= dict(list(of_op.items())[: 1 if made else 2])
    return made


def _cache(records: list[Record]) -> str:
    """Return "cold" if it was measured: warm inputs show little about bandwidth."""
    return min(record["cache"] for record in records)


def _title(record: Record) -> str:
    what = f"{record['op']}, {record['dtype']}"
    if not record["vectors"]:
        return what
    whose = {"shared": "shared by all rows", "per-row": "separate per row"}
    return f"{what}\n{record['vectors']} vectors, {whose.get(record['entries'], record['entries'])}"


if __name__ == "__main__":
    source = Path(sys.argv[1])
    draw(json.loads(source.read_text(encoding="utf-8")), source.with_suffix(".png"))
