"""Commands with a time limit that leave no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMED_OUT = 124
Done = subprocess.CompletedProcess[str]


class TimeLimit:
    """Seconds that several commands share."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    def within(self, seconds: float) -> TimeLimit:
        """Return a limit of at most `seconds` that ends no later than this one."""
        return TimeLimit(min(seconds, self.left()))

    def run(self, *command: str, **environment: str) -> Done:
        """Run a command in the root folder; one that exceeds the limit is killed and fails.

        The command leads a process group, which is killed whole: what a killed sanitizer has
        started would otherwise keep the GPU busy while later commands are timed.
        """
        own = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment}
        limit = self.left()
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=limit)
            code = process.returncode
        except subprocess.TimeoutExpired:
            kill_group(process)
            output, errors = process.communicate()
            code = TIMED_OUT
            errors += f"\nstopped after {limit:.0f} s"
        finally:
            kill_group(process)
        return subprocess.CompletedProcess(command, code, output, errors)


def kill_group(leader: subprocess.Popen[str]) -> None:
    """Kill the group, its leader too; one that is gone already is none."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()
