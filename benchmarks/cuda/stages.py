"""The stages of the check: what each runs, for how long, and what it makes of the output."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limited import ROOT, Done, TimeLimit
from rich.console import Console

PYTHON = sys.executable
DECODING = "test_gpu_decoding.py"
MODEL = ["--model", "random:llama-2-7b", "--dtype", "bfloat16", "--device", "cuda"]
Found = dict[str, Any]
Work = Callable[[Path, TimeLimit], Found]


@dataclass(frozen=True)
class Stage:
    """`work` gets a folder for its files and a time limit that starts with it."""

    seconds: float
    work: Work
    shown: bool = False  # its output, even if it passed


def last_lines(result: Done, count: int = 15) -> list[str]:
    return without_paths((result.stdout + result.stderr).strip()).splitlines()[-count:]


def without_paths(text: str) -> str:
    """Remove paths of this machine, since the record is published."""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def finished(result: Done, output: Path) -> Found:
    """Return the verdict on a program, and the results that it wrote to `output`."""
    found: Found = {"passed": result.returncode == 0}
    if output.exists():
        return found | {
            "results": json.loads(output.read_text()),
            "output": last_lines(result, 130),
        }
    return found | {"output": last_lines(result)}


def architecture() -> str:
    """Return the only architecture that this machine's kernels are built for."""
    import torch

    return "".join(map(str, torch.cuda.get_device_capability()))


def build(scratch: Path, limit: TimeLimit) -> Found:
    command = [PYTHON, "setup.py", "build_ext", "--inplace"]
    result = limit.run(*command, FASTSTEER_CUDA="1", FASTSTEER_CUDA_ARCHS=architecture())
    if result.returncode != 0:
        return {"passed": False, "output": last_lines(result)}
    info = limit.run(PYTHON, "-m", "faststeer", "info")
    return {"passed": info.returncode == 0, "output": last_lines(info, 20)}


def outcomes(output: str) -> dict[str, str]:
    """Return the outcome of each test that pytest printed, also where it was killed midway."""
    lines = re.findall(r"^\S+::(\S.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", output, re.MULTILINE)
    return {name: outcome.lower() for name, outcome in lines}


def gpu_tests(*files: str, options: Sequence[str] = (), under: Sequence[str] = ()) -> Work:
    """Return the work of running test files, under another program where one is given."""

    def work(scratch: Path, limit: TimeLimit) -> Found:
        paths = [f"tests/cuda/{file}" for file in files]
        # Deprecations in this environment's packages are not what is checked here.
        quiet = ["-p", "no:cacheprovider", "-W", "default::DeprecationWarning"]
        quiet += ["-W", "default::FutureWarning"]
        result = limit.run(*under, PYTHON, "-m", "pytest", "-vv", *quiet, *options, *paths)
        found = outcomes(result.stdout)
        passed = result.returncode == 0 and "passed" in found.values()  # and not all skipped
        return {"passed": passed, "output": last_lines(result), "tests": found}

    return work


def kernel_tests() -> list[str]:
    found = (ROOT / "tests" / "cuda").glob("test_gpu_*.py")
    return sorted(path.name for path in found if path.name != DECODING)


def memcheck(scratch: Path, limit: TimeLimit) -> Found:
    """Check the project's own kernels in the smallest tests.

    initcheck would need all kernels: without PyTorch's it takes what those wrote for missing.
    Races and uninitialised shared memory are found where the kernels run on a CPU.
    """
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"passed": None, "output": ["compute-sanitizer is not installed"]}
    under = [program, "--tool", "memcheck", "--error-exitcode", "86"]
    under += ["--kernel-name", "kns=faststeer"]
    small = ["-x", "-k", "bfloat16"]
    return gpu_tests("test_gpu_sanitized.py", options=small, under=under)(scratch, limit)


def ops(scratch: Path, limit: TimeLimit) -> Found:
    """Time the ops, few rows first; then few rows again with overlapping launches."""
    program = [PYTHON, "benchmarks/ops/run.py", "--device", "cuda", "--dtype", "bfloat16"]
    program += ["--op", "steer_add_rms_norm", "--entries", "per-row", "--entries", "shared"]
    vectors = ["--vectors", "0", "--vectors", "1", "--vectors", "4"]
    few = [word for rows in (1, 4, 16, 64) for word in ("--rows", str(rows))]
    many = [word for rows in (256, 2048, 8192, 32768) for word in ("--rows", str(rows))]
    plain, overlapped = scratch / "ops.json", scratch / "ops-pdl.json"
    budget = ["--seconds", "25", "--compile-seconds", "12"]
    command = [*program, *vectors, *few, *many, *budget, "--output", str(plain)]
    found = finished(limit.within(48).run(*command, FASTSTEER_PDL="0"), plain)
    budget = ["--seconds", "12", "--compile", "none"]
    command = [*program, *vectors, *few, *budget, "--output", str(overlapped)]
    second = finished(limit.run(*command, FASTSTEER_PDL="1"), overlapped)
    if "results" in found and "results" in second:
        found["output"] += side_by_side(found["results"], second["results"])
        found["results_with_pdl"] = second["results"]
    else:
        found["output"] += second["output"]
    return found | {"passed": found["passed"] and second["passed"]}


def side_by_side(plain: Found, overlapped: Found) -> list[str]:
    """Return lines that compare the two, for each case and variant of faststeer in both."""
    lines = ["FASTSTEER_PDL=0 and 1, microseconds:"]
    keys = ("rows", "vectors", "entries", "cache")
    others = {tuple(case[key] for key in keys): case for case in overlapped["cases"]}
    for case in plain["cases"]:
        place = tuple(case[key] for key in keys)
        if place not in others:
            continue
        for name, without in case["microseconds"].items():
            with_pdl = others[place]["microseconds"].get(name)
            if with_pdl is None or not name.startswith("faststeer"):
                continue
            rows, vectors, entries, cache = place
            what = f"{rows} rows, {vectors} vectors {entries}, {cache}, {name}"
            lines.append(f"  {what}: {without:.2f} {with_pdl:.2f} ({with_pdl / without:.3f}x)")
    return lines


def host(scratch: Path, limit: TimeLimit) -> Found:
    output = scratch / "host.json"
    program = [PYTHON, "benchmarks/models/host.py", "--device", "cuda", "--rounds", "25"]
    return finished(limit.run(*program, "--output", str(output)), output)


def capture(scratch: Path, limit: TimeLimit) -> Found:
    output = scratch / "capture.json"
    program = [PYTHON, "benchmarks/models/capture.py", *MODEL[:2], "--device", "cuda"]
    return finished(limit.run(*program, "--output", str(output)), output)


def vllm_cost(scratch: Path, limit: TimeLimit) -> Found:
    from faststeer.utils.machine import installed_version

    if installed_version("vllm") is None:
        return {"passed": None, "output": ["vLLM is not installed"]}
    output = scratch / "vllm.json"
    program = [PYTHON, "benchmarks/vllm/serving_cost.py", "--device", "cuda", "--rounds", "2"]
    return finished(limit.run(*program, "--output", str(output)), output)


def timed_model(name: str, *options: str) -> Work:
    """Return the work of `faststeer bench` on LLaMA-7B's shape, judged by the targets."""

    def work(scratch: Path, limit: TimeLimit) -> Found:
        output = scratch / f"{name}.json"
        bench = [PYTHON, "-m", "faststeer", "bench", *MODEL, "--prompt-tokens", "128"]
        bench += ["--new-tokens", "4", "--rounds", "7", *options, "--output", str(output)]
        return judged(finished(limit.run(*bench), output))

    return work


def judged(found: Found) -> Found:
    """Add a verdict on each target that the results cover."""
    if "results" not in found:
        return found
    sys.path.append(str(ROOT / "benchmarks"))
    from models.targets import table, verdicts_on

    found["targets"] = verdicts_on(found["results"])
    console = Console(width=110, file=io.StringIO())
    with console.capture() as printed:
        console.print(table(found["targets"]))
    found["output"] += printed.get().splitlines()
    return found


# A call ends within five minutes: the limits of its stages are less than SECONDS together, and no
# stage still runs SECONDS after the program's start.
SECONDS = 285.0
KERNELS: Mapping[str, Stage] = {
    "build": Stage(70, build),
    "tests": Stage(80, gpu_tests(*kernel_tests())),
    "memcheck": Stage(50, memcheck),
    "ops": Stage(75, ops, shown=True),
}
MODELS: Mapping[str, Stage] = {
    "build": Stage(60, build),  # seconds where the kernels are built already
    "decoding": Stage(40, gpu_tests(DECODING)),
    "model": Stage(80, timed_model("model", "--batch-sizes", "1,8,32"), shown=True),
    # Compiling 32 layers takes a minute per batch size; a step of two has the same parts.
    "compiled": Stage(
        50,
        timed_model("compiled", "--batch-sizes", "8", "--num-layers", "2", "--compiled"),
        shown=True,
    ),
    "host": Stage(20, host, shown=True),
    "capture": Stage(25, capture, shown=True),
}
ENGINE: Mapping[str, Stage] = {
    "build": Stage(60, build),
    "vllm": Stage(210, vllm_cost, shown=True),
}
