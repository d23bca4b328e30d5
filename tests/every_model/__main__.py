"""Examine every class that AutoModelForCausalLM knows: `python -m every_model` from `tests`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from every_model.building import mapping
from every_model.examining import examine
from every_model.outcomes import Report
from every_model.preloading import preload
from every_model.processes import SECONDS, examined_apart
from every_model.steering_checks import LIMIT
from every_model.table import written


def main() -> int:
    """Return the number of classes that are wrong or crashed."""
    parser = argparse.ArgumentParser(prog="every_model", description=__doc__)
    parser.add_argument("--only", help="classes, separated by commas")
    parser.add_argument("--output", type=Path, help="where the table goes (Markdown)")
    parser.add_argument("--findings", type=Path, help="where every finding goes (text)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="limit of each class")
    given = parser.parse_args()
    preload()
    classes = mapping()
    chosen = list(classes) if given.only is None else given.only.split(",")
    reports: list[Report] = []
    for name in chosen:
        started = time.monotonic()
        reports.append(examined_apart(examine, name, classes[name], given.seconds))
        print(_line(reports[-1], time.monotonic() - started), flush=True)
        if given.findings is not None:
            given.findings.write_text(_findings(reports))
    if given.output is not None:
        given.output.write_text(written(reports, LIMIT))
    failed = [report for report in reports if report.failed]
    print(f"{len(reports)} classes, {len(failed)} of them wrong or crashed")
    return len(failed)


def _line(report: Report, seconds: float) -> str:
    failures = [f"{f.check} {f.outcome}" for f in report.findings if f.failed]
    details = "; ".join(failures) or report.reason
    return f"{seconds:5.1f} s  {report.name}: {report.way}{': ' + details if details else ''}"[:240]


def _findings(reports: list[Report]) -> str:
    lines = []
    for report in reports:
        lines.append("\t".join((report.name, "patch", report.way, report.reason)))
        for f in report.findings:
            error = "" if f.error is None else f"{f.error:.1e}"
            lines.append("\t".join((report.name, f.check, f.outcome, error, f.message)))
        lines += ["\t".join((report.name, "note", note)) for note in report.notes]
    return "\n".join(line.replace("\n", " ") for line in lines) + "\n"


if __name__ == "__main__":
    sys.exit(bool(main()))
