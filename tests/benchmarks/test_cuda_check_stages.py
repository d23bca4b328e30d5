"""The stages of the check for machines with a GPU: what each runs and makes of the output."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import limited
import pytest
import stages
import torch
from limited import TimeLimit
from places import BENCHMARKS, ROOT

from faststeer.utils import machine

PROGRAM = BENCHMARKS / "cuda" / "run.py"

check = runpy.run_path(str(PROGRAM))


def test_the_outcome_of_every_test_is_stored_even_if_the_last_one_never_ends(
    tmp_path: Path, monkeypatch
) -> None:
    tests = tmp_path / "tests" / "cuda" / "test_four.py"
    tests.parent.mkdir(parents=True)
    tests.write_text(
        "import pytest, time\n"
        "@pytest.mark.parametrize('x', ['a b', 'c'])\n"
        "def test_good(x): pass\n"
        "def test_bad(): assert False\n"
        "def test_absent(): pytest.skip('no')\n"
        "def test_endless(): time.sleep(60)\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -q -ra\n")
    monkeypatch.setattr(limited, "ROOT", tmp_path)
    found = stages.gpu_tests("test_four.py")(tmp_path, TimeLimit(8.0))
    assert found["passed"] is False
    assert found["tests"] == {
        "test_good[a b]": "passed",
        "test_good[c]": "passed",
        "test_bad": "failed",
        "test_absent": "skipped",
    }
    assert found["output"][-1] == "stopped after 8 s"


def test_tests_that_are_all_skipped_have_not_passed() -> None:
    found = stages.gpu_tests("test_gpu_moments.py")(Path(), TimeLimit(300.0))
    if not torch.cuda.is_available():
        assert set(found["tests"].values()) == {"skipped"}
        assert found["passed"] is False


def test_the_kernels_are_tested_with_all_gpu_tests_but_those_of_decoding() -> None:
    files = {path.name for path in (ROOT / "tests" / "cuda").glob("test_gpu_*.py")}
    assert {*stages.kernel_tests(), stages.DECODING} == files
    assert stages.DECODING not in stages.kernel_tests()


def test_results_of_a_program_are_part_of_the_record(tmp_path: Path) -> None:
    output = tmp_path / "ops.json"
    done = subprocess.CompletedProcess([], 0, "a line\n", "")
    assert stages.finished(done, output) == {"passed": True, "output": ["a line"]}
    output.write_text(json.dumps({"x": 1}))
    assert stages.finished(done, output)["results"] == {"x": 1}


def test_a_sanitizer_that_is_not_installed_is_recorded_as_absent(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = stages.memcheck(Path(), TimeLimit(1.0))
    assert found == {"passed": None, "output": ["compute-sanitizer is not installed"]}


Answer = Callable[[tuple[str, ...], Mapping[str, str]], int]


def commands(monkeypatch, answer: Answer) -> list[tuple[tuple[str, ...], Mapping[str, str]]]:
    """Replace the running of commands by `answer`, which returns their exit code."""
    called = []

    def run(self: TimeLimit, *command: str, **environment: str) -> limited.Done:
        called.append((command, environment))
        return subprocess.CompletedProcess(command, answer(command, environment), "", "it ran")

    monkeypatch.setattr(TimeLimit, "run", run)
    return called


def test_kernels_are_built_for_this_gpu_alone_and_asked_whether_they_load(monkeypatch) -> None:
    called = commands(monkeypatch, lambda command, environment: 0)
    monkeypatch.setattr(stages, "architecture", lambda: "90")
    assert stages.build(Path(), TimeLimit(9.0))["passed"]
    (build, environment), (info, _) = called
    assert build[1:] == ("setup.py", "build_ext", "--inplace")
    assert environment == {"FASTSTEER_CUDA": "1", "FASTSTEER_CUDA_ARCHS": "90"}
    assert info[1:] == ("-m", "faststeer", "info")


def test_ops_are_compared_with_overlapping_launches_and_without(
    tmp_path: Path, monkeypatch
) -> None:
    def answer(command: tuple[str, ...], environment: Mapping[str, str]) -> int:
        slower = 2.0 if environment["FASTSTEER_PDL"] == "0" else 1.5
        case = {"rows": 1, "vectors": 4, "entries": "shared", "cache": "cold"}
        case["microseconds"] = {"stock": 9.0, "faststeer": slower, "faststeer idle": slower - 1}
        cases = [case] if environment["FASTSTEER_PDL"] == "1" else [case, case | {"rows": 2048}]
        Path(command[command.index("--output") + 1]).write_text(json.dumps({"cases": cases}))
        return 0

    called = commands(monkeypatch, answer)
    found = stages.ops(tmp_path, TimeLimit(75.0))
    assert found["passed"]
    assert found["output"][-3:] == [
        "FASTSTEER_PDL=0 and 1, microseconds:",
        "  1 rows, 4 vectors shared, cold, faststeer: 2.00 1.50 (0.750x)",
        "  1 rows, 4 vectors shared, cold, faststeer idle: 1.00 0.50 (0.500x)",
    ]
    (plain, _), (overlapped, _) = called
    rows = [int(plain[i + 1]) for i, word in enumerate(plain) if word == "--rows"]
    assert rows == sorted(rows)  # few first, in case time runs out
    assert rows[0] == 1
    assert rows[-1] == 32768
    assert "--compile" in overlapped


def test_a_timed_model_is_judged_by_the_targets(monkeypatch) -> None:
    ratios = {"stock": 1.0, "faststeer, idle": 0.98, "faststeer, 4 vectors a row": 0.983}
    rows = [
        {
            "phase": "decode, captured",
            "batch_size": 8,
            "variant": name,
            "against_stock": ratio,
            "against_idle": ratio / 0.98,
        }
        for name, ratio in ratios.items()
    ]
    results = {"device": "NVIDIA H100", "settings": {"batch_sizes": [8]}, "results": rows}
    found = stages.judged({"passed": True, "output": ["a line"], "results": results})
    assert [(each["against"], each["at_most"], each["met"]) for each in found["targets"]] == [
        ("faststeer, idle", 1.005, True),
        ("stock", 1.0, True),
    ]
    assert found["output"][0] == "a line"
    assert sum("met" in line for line in found["output"]) == 2
    assert stages.judged({"passed": False, "output": []}) == {"passed": False, "output": []}
    assert check["counts"](found) == "2 of 2 targets met"


@pytest.mark.parametrize(("name", "sizes"), [("model", "1,8,32"), ("compiled", "8")])
def test_llamas_shape_is_timed(name: str, sizes: str, tmp_path: Path, monkeypatch) -> None:
    called = commands(monkeypatch, lambda command, environment: 1)
    found = stages.MODELS[name].work(tmp_path, TimeLimit(9.0))
    assert found == {"passed": False, "output": ["it ran"]}
    [(command, _)] = called
    assert command[command.index("--batch-sizes") + 1] == sizes
    assert command[command.index("--model") + 1] == "random:llama-2-7b"
    assert ("--compiled" in command) == (name == "compiled")


# Options of the programs that stages run, which nothing else here would find out.
@pytest.mark.parametrize("name", ["ops", "host", "capture", "model", "compiled"])
def test_programs_take_the_options_that_stages_give(name: str, tmp_path: Path, monkeypatch) -> None:
    real = TimeLimit.run
    called = commands(monkeypatch, lambda command, environment: 1)
    (stages.KERNELS | stages.MODELS)[name].work(tmp_path, TimeLimit(90.0))
    for command, environment in called:
        result = real(TimeLimit(90.0), *command, CUDA_VISIBLE_DEVICES="", **environment)
        assert result.returncode != 0
        assert "no such option" not in result.stderr.lower()
        assert re.search("CUDA|NVIDIA|cuda", result.stderr), result.stderr


def test_engine_is_timed_where_vllm_is_installed(tmp_path: Path, monkeypatch) -> None:
    absent = stages.ENGINE["vllm"].work(tmp_path, TimeLimit(90.0))
    assert absent == {"passed": None, "output": ["vLLM is not installed"]}
    real = TimeLimit.run
    called = commands(monkeypatch, lambda command, environment: 1)
    monkeypatch.setattr(machine, "installed_version", lambda name: "1")
    assert stages.ENGINE["vllm"].work(tmp_path, TimeLimit(90.0))["passed"] is False
    [(command, environment)] = called
    result = real(TimeLimit(90.0), *command, **environment)
    assert "no such option" not in result.stderr.lower()
    assert "No module named 'vllm'" in result.stderr, result.stderr
