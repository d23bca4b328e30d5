"""The check for machines with a GPU, as far as it runs without one."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import stages
from limited import TimeLimit
from places import BENCHMARKS, ROOT
from stages import Found, Stage

PROGRAM = BENCHMARKS / "cuda" / "run.py"
check = runpy.run_path(str(PROGRAM))
PYTHON = sys.executable


@pytest.mark.parametrize("what", ["kernels", "models", "engine"])
def test_without_a_gpu_the_check_exits_with_an_error(what: str, tmp_path: Path) -> None:
    output = tmp_path / "results"
    done = subprocess.run(
        [PYTHON, str(PROGRAM), what, "--output", str(output)],
        capture_output=True,
        text=True,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
        check=False,
    )
    assert done.returncode == 1
    assert "torch sees no CUDA device here" in done.stderr
    assert not output.exists()


def test_each_call_ends_within_five_minutes() -> None:
    for call in (stages.KERNELS, stages.MODELS, stages.ENGINE):
        assert sum(stage.seconds for stage in call.values()) <= stages.SECONDS - 10
    assert stages.SECONDS <= 290


def test_stored_output_contains_no_absolute_path() -> None:
    kept = stages.without_paths(f"{ROOT}/csrc/a.cu and {Path.home()}/b")
    assert kept == "./csrc/a.cu and ~/b"


# The whole.


def stubbed(*command: str, seconds: float = 9.0) -> Stage:
    def work(scratch: Path, limit: TimeLimit) -> Found:
        result = limit.run(*command)
        return {"passed": result.returncode == 0, "output": stages.last_lines(result)}

    return Stage(seconds, work, shown=True)


def broken(scratch: Path, limit: TimeLimit) -> Found:
    raise RuntimeError(f"no luck in {ROOT}")


def test_stages_run_to_the_end_and_the_record_is_whole_after_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "result.json"

    def look(scratch: Path, limit: TimeLimit) -> Found:
        before = json.loads(target.read_text())["stages"]
        return {"passed": None, "output": [f"{list(before)}"], "tests": {"a": "passed"}}

    record: dict[str, Any] = {"machine": {}, "stages": {}}
    chosen = {
        "good": stubbed(PYTHON, "-c", "print('all well')"),
        "bad": Stage(9.0, broken),
        "slow": stubbed(PYTHON, "-c", "import time; time.sleep(60)", seconds=1.0),
        "look": Stage(9.0, look),
    }
    check["run_stages"](chosen, record, target, TimeLimit(60.0))
    assert json.loads(target.read_text()) == record
    assert {name: found["passed"] for name, found in record["stages"].items()} == {
        "good": True,
        "bad": False,
        "slow": False,
        "look": None,
    }
    assert record["stages"]["bad"]["output"] == ["RuntimeError: no luck in ."]
    assert record["stages"]["look"]["output"] == ["['good', 'bad', 'slow']"]
    printed = capsys.readouterr().out
    assert "all well" in printed
    assert "stopped after 1 s" in printed
    console = check["Console"](width=110)
    with console.capture() as table:
        console.print(check["verdicts"](record))
    lines = [line.split() for line in table.get().splitlines()]
    assert ["bad", "FAILED"] in [line[:2] for line in lines]
    assert ["look", "absent"] in [line[:2] for line in lines]
    assert ["1", "tests", "passed"] in [line[3:] for line in lines]


def test_nothing_is_tested_or_timed_without_a_library(tmp_path: Path) -> None:
    record: dict[str, Any] = {"machine": {}, "stages": {}}
    chosen = {"build": Stage(9.0, broken), "tests": stubbed(PYTHON, "-c", "")}
    check["run_stages"](chosen, record, tmp_path / "x.json", TimeLimit(60.0))
    assert list(record["stages"]) == ["build"]


def test_stages_stop_where_the_whole_call_has_to(tmp_path: Path) -> None:
    record: dict[str, Any] = {"machine": {}, "stages": {}}
    slow = stubbed(PYTHON, "-c", "import time; time.sleep(60)", seconds=50.0)
    begin = time.monotonic()
    check["run_stages"]({"a": slow, "b": slow}, record, tmp_path / "x.json", TimeLimit(3.0))
    assert time.monotonic() - begin < 20
    assert not any(found["passed"] for found in record["stages"].values())


def test_the_record_lies_where_it_was_told_with_the_given_commit(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = check["check"]
    names = run.__globals__
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setitem(names, "START", time.monotonic())  # not when this file was imported
    machine = {"gpu": "NVIDIA H100 80GB", "date": "2026-01-31"}
    monkeypatch.setitem(names, "facts", lambda commit: machine | {"commit": commit})
    chosen = {"good": stubbed(PYTHON, "-c", ""), "other": Stage(9.0, broken)}
    output = tmp_path / "new" / "folder"
    with pytest.raises(SystemExit) as ended:
        run("kernels", chosen, output, "abc123", ["good"])
    assert ended.value.code == 0
    [file] = output.iterdir()
    assert file.name == "cuda-kernels-h100-80gb-2026-01-31.json"
    record = json.loads(file.read_text())
    assert record["machine"]["commit"] == "abc123"
    assert list(record["stages"]) == ["good"]
    assert capsys.readouterr().out.strip().splitlines()[-1].split()[:2] == ["good", "passed"]
    with pytest.raises(SystemExit) as ended:
        run("kernels", chosen, output, None, None)
    assert ended.value.code == 1
    with pytest.raises(SystemExit, match="no stage 'odd'; there are good, other"):
        run("kernels", chosen, output, None, ["odd"])
