"""The tables of results that `run.py` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from compiled_peers import LeftOut
from rich import box
from rich.table import Column, Table
from variants import COMPILED, FRESH, INTO, OURS, PEERS, STOCK

Record = dict[str, Any]


def case_tables(records: Iterable[Record]) -> Iterable[Table]:
    """Yield two tables per op, dtype and cache state: the comparison, and every median."""

    def kind(record: Record) -> tuple[str, str, str]:
        return record["op"], record["dtype"], record["cache"]

    for (op, dtype, cache), group in groupby(sorted(records, key=kind), key=kind):
        cases = sorted(group, key=_kind_and_rows)
        names = [name for name in PEERS + OURS if any(name in case["bytes"] for case in cases)]
        yield _comparison(f"{op}, {dtype}, {cache} cache", cases, names)
        yield _medians(f"{op}, {dtype}, {cache} cache: every median in us", cases, names)


def targets_table(verdicts: Sequence[Record]) -> Table:
    """Return the verdicts as a table; missed targets come last, where they are noticed."""
    lines = []
    for verdict in sorted(verdicts, key=lambda each: {True: 0, None: 1, False: 2}[each["met"]]):
        share = verdict["over"] is None
        form = "{:.0%}" if share else "{:.2f}x"
        over = "share of copy" if share else f"over {verdict['over']}"
        met = {True: "pass", False: "MISS", None: "as found, fused"}[verdict["met"]]
        limits = [form.format(verdict[key]) for key in ("at_least", "reached")]
        elsewhere = _cores(verdict["cores_elsewhere"])
        lines.append([verdict["variant"], over, *_what(verdict), verdict["cache"]])
        lines[-1] += [*limits, met, elsewhere]
    columns = ["variant", "", "rows", "what", "cache", "at least", "reached", "", "cores elsewhere"]
    return _table("targets", columns, lines)


def left_out_lines(left_out: Sequence[LeftOut]) -> list[str]:
    """Return which peers were left out and why; cases of one op and dtype share a line."""
    cases: dict[tuple[str, ...], list[LeftOut]] = {}
    for each in left_out:
        key = (each.name, each.why, each.case.op.value, each.case.dtype.value)
        cases.setdefault(key, []).append(each)
    lines = []
    for (name, why, op, dtype), group in cases.items():
        rows = ", ".join(str(n) for n in sorted({each.case.rows for each in group}))
        lines.append(f"left out ({why}): {name} of {len(group)} {op} {dtype} cases, rows {rows}")
    return lines


def _comparison(title: str, cases: Sequence[Record], names: Sequence[str]) -> Table:
    against = {FRESH: PEERS, INTO: (STOCK, COMPILED)}
    shown = {ours: [peer for peer in against[ours] if peer in names] for ours in against}
    columns = ["rows", "what", "bytes"]
    for ours, peers in shown.items():
        if ours in names:
            columns += [f"{ours} us", "share of copy", *(f"vs {peer}" for peer in peers)]
    lines = []
    for case in cases:
        line = [*_what(case), f"{case['bytes'][FRESH]:,}"]
        for ours, peers in shown.items():
            if ours in names:
                speedups = case["speedup"][ours]
                line += [f"{case['microseconds'][ours]:.1f}", f"{case['share_of_copy'][ours]:.0%}"]
                line += [f"{speedups[peer]:.2f}x" if peer in speedups else "" for peer in peers]
        lines.append([*line, _cores(case["cores_elsewhere"])])
    return _table(title, [*columns, "cores elsewhere"], lines)


def _medians(title: str, cases: Sequence[Record], names: Sequence[str]) -> Table:
    lines = []
    for case in cases:
        times = case["microseconds"]
        medians = [f"{times[name]:.1f}" if name in times else "" for name in names]
        lines.append([*_what(case), case["clock"], *medians])
    return _table(title, ["rows", "what", "clock", *names], lines)


def _kind_and_rows(record: Record) -> tuple[str, int, int, int]:
    return record["entries"], record["vectors"], record["groups"], record["rows"]


def _what(record: Record) -> list[str]:
    if record["op"] == "accumulate_moments":
        what = f"{record['groups']} group{'s' * (record['groups'] > 1)}"
    else:
        what = f"{record['vectors']} {record['entries']}" if record["vectors"] else "unsteered"
    return [f"{record['rows']}", what]


def _cores(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(title: str, columns: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    headings = (Column(_stacked(column), justify="right", no_wrap=True) for column in columns)
    made = Table(*headings, title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for line in lines:
        made.add_row(*line)
    return made


def _stacked(heading: str) -> str:
    """Return a header with one word per line: the numbers below are short."""
    return heading.replace(" ", "\n").replace("torch.", "torch.\n")
