"""Examine each class in a separate process with limits on time and memory.

They are forked from a parent that has imported transformers, so that a class takes seconds.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from json import dumps, loads
from typing import Any

from every_model.outcomes import CRASHED, Finding, Report

SECONDS = 240.0
MEMORY = 6 << 30


def examined_apart(
    examine: Callable[[str, str], Report], name: str, model_type: str, seconds: float = SECONDS
) -> Report:
    """Return the report of `examine`; a crash and a time-out are reports as well."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _be_examined(examine, name, model_type, write_end)
    os.close(write_end)
    written = _read(read_end, time.monotonic() + seconds)
    if written is None:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    report = Report(name, model_type, CRASHED)
    if written is None:
        report.reason = f"took longer than {seconds:.0f} s"
    elif status or not written:
        report.reason = f"its process ended with {_described(status)}"
    else:
        report = _report(loads(written))
    return report


def _be_examined(
    examine: Callable[[str, str], Report], name: str, model_type: str, write_end: int
) -> None:
    """Run in the child: write the report and exit."""
    os.setsid()  # so that it can be killed with its children
    status = 1
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        try:
            report = examine(name, model_type)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            report = Report(name, model_type, CRASHED)
            report.reason = f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        with os.fdopen(write_end, "w") as stream:
            stream.write(dumps(asdict(report)))
        status = 0
    finally:
        os._exit(status)


def _read(read_end: int, deadline: float) -> str | None:
    """Read until the writer closes; return None if `deadline` comes first."""
    parts: list[bytes] = []
    with os.fdopen(read_end, "rb", buffering=0) as stream:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([stream], [], [], left)[0]:
                return None
            part = os.read(read_end, 1 << 16)
            if not part:
                return b"".join(parts).decode()
            parts.append(part)


def _described(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _report(found: dict[str, Any]) -> Report:
    found["findings"] = [Finding(**finding) for finding in found["findings"]]
    return Report(**found)
