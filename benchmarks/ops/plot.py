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

Record = dict[str, Any]

# faststeer is a thick red line; variants that add no vectors are dashed.
LINES: dict[str, tuple[str, dict[str, Any]]] = {
    FRESH: ("faststeer", {"color": "#b2182b", "linewidth": 2.8, "marker": "o", "zorder": 5}),
    INTO: (
        "faststeer, into given tensors",
        {"color": "#ef8a62", "linewidth": 2.0, "marker": "o", "zorder": 4},
    ),
    COMPILED: ("torch.compile", {"color": "#2166ac", "marker": "s"}),
    EAGER: ("eager PyTorch, vectors summed beforehand", {"color": "#444444", "marker": "^"}),
    LIGER: ("Liger, unsteered", {"color": "#1b9e77", "marker": "D", "linestyle": "--"}),
    COMPILED_UNSTEERED: (
        "torch.compile, unsteered",
        {"color": "#67a9cf", "marker": "s", "linestyle": "--"},
    ),
    STOCK: ("eager PyTorch, unsteered", {"color": "#999999", "marker": "v", "linestyle": "--"}),
}


def draw(result: Record, path: Path) -> None:
    """Write the picture, or print that matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullLocator, PercentFormatter, StrMethodFormatter
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return
    drawn = panels(result["cases"])
    figure = Figure(figsize=(1.2 + 4.9 * len(drawn), 8.5), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, len(drawn), sharex="col", sharey="row", squeeze=False)
    for shares, times, (title, records) in zip(above, below, drawn.items(), strict=True):
        _lines(shares, records, "share_of_copy")
        _lines(times, records, "microseconds")
        shares.axhline(1, color="black", linewidth=0.8)
        rows = sorted({record["rows"] for record in records})
        shares.set(title=title, xscale="log")
        times.set(xlabel="rows (tokens)", yscale="log")
        times.set_xticks(rows, [f"{n:,}" for n in rows])
        times.xaxis.set_minor_locator(NullLocator())
        shares.yaxis.set_major_formatter(PercentFormatter(1))
        times.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    above[0].set(ylabel="share of the copy bandwidth", ylim=(0, None))
    below[0].set(ylabel="time of a call, µs")
    machine = result["machine"]
    figure.suptitle(
        f"{machine.get('gpu') or machine['cpu']}, copy {result['copy_bytes_per_second'] / 1e9:,.0f}"
        f" GB/s, hidden size {result['settings']['hidden']}, {_cache(result['cases'])} caches"
    )
    labelled = {
        label: line
        for axes in above
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    columns = min(4, 2 * len(drawn))
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=columns)
    figure.savefig(path, dpi=100)


def _lines(axes: Any, records: list[Record], quantity: str) -> None:
    for name, (label, style) in LINES.items():
        points = [record for record in records if name in record[quantity]]
        if points:
            values = [record[quantity][name] for record in points]
            axes.plot([record["rows"] for record in points], values, label=label, **style)
    axes.grid(axis="y", alpha=0.3)


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
