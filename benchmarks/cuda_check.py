"""Run every check that needs a GPU, in under eight minutes: `make cuda-check`.

    python benchmarks/cuda_check.py --output benchmarks/results/h100-2026-01-31.json

Builds the library, runs the CUDA tests, runs compute-sanitizer over a small set of them, times the
ops and a model of LLaMA-7B's shape (eager, captured, compiled), and writes all results, and which
targets were met, with the device, the driver, the versions and the commit to one file. Needs no
network: it uses the packages of the environment's Python.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

ROOT = Path(__file__).parents[1]
PYTHON = sys.executable
GPU_TESTS = [str(path) for path in sorted((ROOT / "tests" / "cuda").glob("test_gpu_*.py"))]
TIMED = ("ops", "model", "compiled", "capture")  # their output is shown
SANITIZERS = ("memcheck", "racecheck", "initcheck")
MODEL = ["--model", "random:llama-2-7b", "--dtype", "bfloat16", "--device", "cuda"]
Stage = Callable[[Path], dict[str, Any]]


def run(*command: str, limit: float, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command; one that takes longer than `limit` seconds counts as failed."""
    try:
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        output = (expired.stdout or b"").decode(errors="replace")
        return subprocess.CompletedProcess(command, 124, output, f"stopped after {limit:.0f} s")


def last_lines(result: subprocess.CompletedProcess[str], count: int = 15) -> list[str]:
    return without_paths((result.stdout + result.stderr).strip()).splitlines()[-count:]


def without_paths(text: str) -> str:
    """Remove paths of this machine, since the record is published."""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def build(scratch: Path) -> dict[str, Any]:
    pip = [PYTHON, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "-e", "."]
    result = run(*pip, limit=240, FASTSTEER_CUDA="1")
    info = run(PYTHON, "-m", "faststeer", "info", limit=60)
    return {"passed": result.returncode == info.returncode == 0} | (
        {"info": last_lines(info, 20)} if result.returncode == 0 else {"output": last_lines(result)}
    )


def outcomes(report: Path) -> dict[str, str]:
    """Return each test's name and outcome from pytest's XML."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        bad = {child.tag for child in case} & {"failure", "error", "skipped"}
        found[case.get("name", "?")] = bad.pop() if bad else "passed"
    return found


def tests(scratch: Path) -> dict[str, Any]:
    report = scratch / "tests.xml"
    pytest = [PYTHON, "-m", "pytest", *GPU_TESTS, f"--junitxml={report}"]
    result = run(*pytest, limit=150)
    found = {"passed": result.returncode == 0, "output": last_lines(result)}
    return found | ({"tests": outcomes(report)} if report.exists() else {})


def sanitizer(tool: str) -> Stage:
    """Return the stage that runs the small tests; only the project's own kernels are checked."""

    def stage(scratch: Path) -> dict[str, Any]:
        program = shutil.which("compute-sanitizer")
        if program is None:
            return {"passed": None, "output": ["compute-sanitizer is not installed"]}
        options = ["--tool", tool, "--error-exitcode", "86", "--kernel-name", "kns=faststeer"]
        pytest = [PYTHON, "-m", "pytest", "-x", "tests/cuda/test_gpu_sanitized.py"]
        result = run(program, *options, *pytest, limit=100)
        return {"passed": result.returncode == 0, "output": last_lines(result, 8)}

    return stage


def timed_ops(scratch: Path) -> dict[str, Any]:
    output = scratch / "ops.json"
    program = [PYTHON, "benchmarks/ops/run.py", "--device", "cuda", "--output", str(output)]
    result = run(*program, limit=200)
    return finished(result, output)


def timed_capture(scratch: Path) -> dict[str, Any]:
    output = scratch / "capture.json"
    program = [PYTHON, "benchmarks/models/capture.py", *MODEL[:2], "--device", "cuda"]
    return finished(run(*program, "--output", str(output), limit=60), output)


def timed_model(name: str, *options: str, limit: float) -> Stage:
    """Return the stage that runs `faststeer bench` on LLaMA-7B's shape and judges its targets."""

    def stage(scratch: Path) -> dict[str, Any]:
        output = scratch / f"{name}.json"
        sizes = ["--batch-sizes", "1,8,32", "--prompt-tokens", "128", "--new-tokens", "4"]
        bench = [PYTHON, "-m", "faststeer", "bench", *MODEL, *sizes, "--rounds", "11", *options]
        return judged(finished(run(*bench, "--output", str(output), limit=limit), output))

    return stage


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """Add a verdict on each target that the results cover."""
    if "results" not in found:
        return found
    from models.targets import table, verdicts_on

    found["targets"] = verdicts_on(found["results"])
    console = Console(width=110, file=io.StringIO())
    with console.capture() as capture:
        console.print(table(found["targets"]))
    found["output"] += capture.get().splitlines()
    return found


def finished(result: subprocess.CompletedProcess[str], output: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"passed": result.returncode == 0}
    if output.exists():
        return found | {
            "results": json.loads(output.read_text()),
            "output": last_lines(result, 130),
        }
    return found | {"output": last_lines(result)}


def facts() -> dict[str, Any]:
    """Return the device, the driver, the versions and the commit."""
    import torch
    import transformers

    from faststeer.utils.machine import source_commit

    smi = shutil.which("nvidia-smi")
    driver = "unknown"
    if smi is not None:
        query = [smi, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        driver = run(*query, limit=30).stdout.strip() or driver
    properties = torch.cuda.get_device_properties(0)
    nvcc = shutil.which("nvcc")
    return {
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "driver": driver,
        "cuda": torch.version.cuda,
        "nvcc": run(nvcc, "--version", limit=30).stdout.strip().splitlines()[-1] if nvcc else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": sys.version.split()[0],
        "commit": source_commit(ROOT),
        "date": date.today().isoformat(),
    }


STAGES: dict[str, Stage] = {
    "build": build,
    "tests": tests,
    **{tool: sanitizer(tool) for tool in SANITIZERS},
    "ops": timed_ops,
    "model": timed_model("model", limit=150),
    "capture": timed_capture,
    # Compiling 32 layers takes a minute per batch size; a step of four has the same parts.
    "compiled": timed_model("compiled", "--num-layers", "4", "--compiled", limit=120),
}


def main(
    output: Annotated[
        Path | None, typer.Option(help="Default: benchmarks/results/, by device and date.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Stages to run; repeatable.")] = None,
) -> None:
    """Build, test, sanitize and time on this machine's GPU."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("error: torch sees no CUDA device here, and nothing else is checked")
    console = Console(width=110)
    record: dict[str, Any] = {"machine": facts(), "stages": {}}
    name = record["machine"]["device"].lower().replace("nvidia ", "").replace(" ", "-")
    target = output or ROOT / "benchmarks/results" / f"cuda-{name}-{record['machine']['date']}.json"
    with tempfile.TemporaryDirectory() as scratch:
        for stage_name, stage in STAGES.items():
            if only and stage_name not in only:
                continue
            begin = time.perf_counter()
            result = stage(Path(scratch))
            result["seconds"] = round(time.perf_counter() - begin, 1)
            record["stages"][stage_name] = result
            # Written after each stage, so that its results are kept if a later one fails.
            target.write_text(json.dumps(record, indent=1) + "\n")
            verdict = {True: "passed", False: "FAILED", None: "absent"}[result["passed"]]
            console.print(f"{stage_name}: {verdict} in {result['seconds']} s", highlight=False)
            if result["passed"] is not True or stage_name in TIMED:
                console.print("\n".join(result["output"]), markup=False, highlight=False)
    failed = [key for key, result in record["stages"].items() if result["passed"] is False]
    console.print(f"wrote {target.name}; failed: {', '.join(failed) or 'nothing'}")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
