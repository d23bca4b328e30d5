"""The check for machines with a GPU, as far as it runs without one."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from places import BENCHMARKS, ROOT

PROGRAM = BENCHMARKS / "cuda_check.py"
check = runpy.run_path(str(PROGRAM))


def test_without_a_gpu_the_check_exits_with_an_error(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--output", str(output)],
        capture_output=True,
        text=True,
        env={"CUDA_VISIBLE_DEVICES": "", "PATH": ""},
        check=False,
    )
    assert done.returncode == 1
    assert "torch sees no CUDA device here" in done.stderr
    assert not output.exists()


def test_a_command_that_exceeds_its_limit_fails_and_its_output_is_kept() -> None:
    says = "import time; print('started', flush=True); time.sleep(60)"
    result = check["run"](sys.executable, "-c", says, limit=3.0)
    assert result.returncode == 124
    assert "started" in result.stdout
    assert check["last_lines"](result) == ["started", "stopped after 3 s"]


def test_stored_output_contains_no_absolute_path() -> None:
    kept = check["without_paths"](f"{ROOT}/csrc/a.cu and {Path.home()}/b")
    assert kept == "./csrc/a.cu and ~/b"


def test_the_outcome_of_every_test_is_stored_by_name(tmp_path: Path) -> None:
    tests = tmp_path / "test_three.py"
    tests.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_absent(): pytest.skip('no')\n"
    )
    report = tmp_path / "report.xml"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", str(tests)],
        capture_output=True,
        check=False,
    )
    assert check["outcomes"](report) == {
        "test_good": "passed",
        "test_bad": "failure",
        "test_absent": "skipped",
    }


def test_results_of_a_program_are_part_of_the_record(tmp_path: Path) -> None:
    output = tmp_path / "ops.json"
    done = subprocess.CompletedProcess([], 0, "a line\n", "")
    assert check["finished"](done, output) == {"passed": True, "output": ["a line"]}
    output.write_text(json.dumps({"x": 1}))
    assert check["finished"](done, output)["results"] == {"x": 1}


@pytest.mark.parametrize("tool", check["SANITIZERS"])
def test_a_sanitizer_that_is_not_installed_is_recorded_as_absent(tool: str, monkeypatch) -> None:
    stage = check["STAGES"][tool]
    monkeypatch.setenv("PATH", "")
    assert stage(Path()) == {"passed": None, "output": ["compute-sanitizer is not installed"]}


def test_a_timed_model_is_judged_by_the_targets(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
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
    found = check["judged"]({"passed": True, "output": ["a line"], "results": results})
    assert [(each["against"], each["at_most"], each["met"]) for each in found["targets"]] == [
        ("faststeer, idle", 1.005, True),
        ("stock", 1.0, True),
    ]
    assert found["output"][0] == "a line"
    assert sum("met" in line for line in found["output"]) == 2
    assert check["judged"]({"passed": False, "output": []}) == {"passed": False, "output": []}


@pytest.mark.parametrize("name", ["model", "compiled"])
def test_models_are_timed_in_batches_of_1_8_and_32_and_stale_results_are_not_reused(
    name: str, tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "compiled.json").write_text("{}")
    (tmp_path / f"{name}.json").unlink()
    called = []

    def run(*command: str, limit: float) -> subprocess.CompletedProcess[str]:
        called.extend(command)
        return subprocess.CompletedProcess(command, 1, "", "it failed")

    stage = check["STAGES"][name]
    monkeypatch.setitem(stage.__globals__, "run", run)
    assert stage(tmp_path) == {"passed": False, "output": ["it failed"]}
    assert called[called.index("--batch-sizes") + 1] == "1,8,32"
    assert called[called.index("--model") + 1] == "random:llama-2-7b"
    assert ("--compiled" in called) == (name == "compiled")
