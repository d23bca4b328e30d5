"""Run the checks that need a GPU, in three calls of at most five minutes each: `make cuda-check`.

    python benchmarks/cuda/run.py kernels --output DIR
    python benchmarks/cuda/run.py models --output DIR
    python benchmarks/cuda/run.py engine --output DIR

`kernels` builds the library for this GPU alone, runs the CUDA tests, runs compute-sanitizer over
the smallest of them, and times the ops, with overlapping launches (FASTSTEER_PDL) and without.
`models` times decode steps of LLaMA-7B's shape, eager, captured and compiled, the host's work per
step, and capture. `engine` times vLLM with the plugin and without, where it is installed. Each
writes its results, which targets were met, the device, the versions and the commit to a file of its
own, and prints a table of verdicts last. Needs no network and no git: it uses the packages of the
environment's Python.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from limited import ROOT, TimeLimit
from rich import box
from rich.console import Console
from rich.table import Table
from stages import ENGINE, KERNELS, MODELS, SECONDS, Found, Stage, without_paths

START = time.monotonic()
VERDICTS = {True: "passed", False: "FAILED", None: "absent"}
app = typer.Typer(add_completion=False)

OutputOption = Annotated[
    Path, typer.Option(help="Folder for the file of results, which is created.")
]
CommitOption = Annotated[
    str | None, typer.Option(help="The commit, where there is no git to ask.", show_default="git's")
]
OnlyOption = Annotated[list[str] | None, typer.Option(help="Stages to run; repeatable.")]
DEFAULT_OUTPUT = ROOT / "benchmarks" / "results"


def facts(commit: str | None) -> dict[str, Any]:
    """Return the device, the driver, the versions and the commit."""
    import torch

    from faststeer.utils.machine import gpu_facts, installed_version, source_commit

    properties = torch.cuda.get_device_properties(0)
    nvcc = shutil.which("nvcc")
    version = TimeLimit(30).run(nvcc, "--version").stdout.strip() if nvcc else ""
    packages = ("transformers", "triton", "liger-kernel")
    return {
        **gpu_facts(),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "nvcc": version.splitlines()[-1] if version else None,
        "torch": torch.__version__,
        **{name: installed_version(name) for name in packages},
        "python": sys.version.split()[0],
        "commit": commit or source_commit(ROOT),
        "date": date.today().isoformat(),
    }


def run_stages(
    stages: Mapping[str, Stage], record: dict[str, Any], target: Path, limit: TimeLimit
) -> None:
    """Run the stages in order and write the record after each, in case a later one fails.

    Without a library there is nothing to test or to time: a failed build is the last stage.
    """
    console = Console(width=110)
    for name, stage in stages.items():
        begin = time.monotonic()
        found = run_stage(stage, limit)
        found["seconds"] = round(time.monotonic() - begin, 1)
        record["stages"][name] = found
        target.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        console.rule(f"{name}: {VERDICTS[found['passed']]} in {found['seconds']} s")
        if found["passed"] is not True or stage.shown:
            console.print("\n".join(found["output"]), markup=False, highlight=False)
        if name == "build" and found["passed"] is False:
            return


def run_stage(stage: Stage, limit: TimeLimit) -> Found:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return stage.work(Path(scratch), limit.within(stage.seconds))
        except Exception as error:  # the other stages are run all the same
            lines = without_paths(f"{type(error).__name__}: {error}").splitlines()
            return {"passed": False, "output": lines}


def verdicts(record: dict[str, Any]) -> Table:
    """Return a line per stage: the verdict, the seconds, and counts of tests and targets."""
    made = Table("stage", "verdict", "seconds", "", title="verdicts", box=box.SIMPLE)
    for name, found in record["stages"].items():
        made.add_row(name, VERDICTS[found["passed"]], f"{found['seconds']}", counts(found))
    return made


def counts(found: Found) -> str:
    """Return how many tests had each outcome, and how many targets were met."""
    said = []
    outcomes = list(found.get("tests", {}).values())
    said += [f"{outcomes.count(each)} tests {each}" for each in dict.fromkeys(outcomes)]
    targets = found.get("targets") or found.get("results", {}).get("targets", [])
    if targets:
        met = sum(each["met"] is True for each in targets)
        said.append(f"{met} of {len(targets)} targets met")
    return ", ".join(said)


def check(
    what: str, stages: Mapping[str, Stage], output: Path, commit: str | None, only: list[str] | None
) -> None:
    import torch

    limit = TimeLimit(SECONDS - (time.monotonic() - START))
    if unknown := set(only or ()) - set(stages):
        raise SystemExit(f"error: no stage {min(unknown)!r}; there are {', '.join(stages)}")
    if not torch.cuda.is_available():
        raise SystemExit("error: torch sees no CUDA device here, and nothing else is checked")
    sys.path.insert(0, str(ROOT))
    record: dict[str, Any] = {"machine": facts(commit), "stages": {}}
    device = record["machine"]["gpu"].lower().replace("nvidia ", "").replace(" ", "-")
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"cuda-{what}-{device}-{record['machine']['date']}.json"
    chosen = {name: stage for name, stage in stages.items() if not only or name in only}
    run_stages(chosen, record, target, limit)
    console = Console(width=110)
    console.print(f"wrote {target.name}", verdicts(record))
    failed = any(found["passed"] is False for found in record["stages"].values())
    raise SystemExit(1 if failed else 0)


@app.command()
def kernels(
    output: OutputOption = DEFAULT_OUTPUT,
    commit: CommitOption = None,
    only: OnlyOption = None,
) -> None:
    """Build, test, sanitize and time the kernels on this machine's GPU."""
    check("kernels", KERNELS, output, commit, only)


@app.command()
def models(
    output: OutputOption = DEFAULT_OUTPUT,
    commit: CommitOption = None,
    only: OnlyOption = None,
) -> None:
    """Time decode steps, the host's work and capture on this machine's GPU."""
    check("models", MODELS, output, commit, only)


@app.command()
def engine(
    output: OutputOption = DEFAULT_OUTPUT,
    commit: CommitOption = None,
    only: OnlyOption = None,
) -> None:
    """Time decode steps of vLLM with the plugin and without on this machine's GPU."""
    check("engine", ENGINE, output, commit, only)


if __name__ == "__main__":
    app()
