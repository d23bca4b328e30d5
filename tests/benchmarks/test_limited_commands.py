"""Commands of the check for machines with a GPU have a limit, and leave no process behind."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import limited
import pytest
import stages
from limited import TimeLimit
from places import ROOT

PYTHON = sys.executable


def test_a_command_that_exceeds_its_limit_fails_and_its_output_is_kept() -> None:
    says = "import time; print('started', flush=True); time.sleep(60)"
    result = TimeLimit(3.0).run(PYTHON, "-c", says)
    assert result.returncode == limited.TIMED_OUT
    assert "started" in result.stdout
    assert stages.last_lines(result) == ["started", "", "stopped after 3 s"]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc")
@pytest.mark.parametrize("leader_waits", [True, False], ids=["leader waits", "leader ends"])
def test_nothing_that_a_command_started_outlives_its_limit(leader_waits: bool) -> None:
    """A grandchild keeps the pipes open and would run beside what is timed next."""
    starts = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
    )
    begin = time.monotonic()
    result = TimeLimit(3.0).run(PYTHON, "-c", starts + "time.sleep(60)" * leader_waits)
    assert time.monotonic() - begin < 20
    assert result.returncode == limited.TIMED_OUT
    end = time.monotonic() + 10  # a killed process closes its pipes a moment before it is gone
    while is_alive(int(result.stdout)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(int(result.stdout))


def test_commands_of_a_stage_share_its_limit_and_none_outlives_the_whole() -> None:
    whole = TimeLimit(2.0)
    part = whole.within(50.0)
    assert part.seconds <= 2.0
    assert whole.within(0.5).seconds == 0.5
    part.run(PYTHON, "-c", "import time; time.sleep(60)")
    assert part.left() == whole.left() == 0.0
    assert part.run(PYTHON, "-c", "import time; time.sleep(60)").returncode == limited.TIMED_OUT


def test_commands_find_this_package_and_the_given_environment() -> None:
    says = "import os, faststeer; print(faststeer.__file__, os.environ['FASTSTEER_PDL'])"
    result = TimeLimit(60.0).run(PYTHON, "-c", says, FASTSTEER_PDL="1")
    assert result.stdout.split() == [str(ROOT / "faststeer" / "__init__.py"), "1"]
