"""Run other projects' tests with and without faststeer.install() and compare the outcomes.

    python benchmarks/peers/run.py --output benchmarks/results/peers.json

`make peers` runs it. The tests load tiny random models from a local hub cache, offline.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import hub
import sources
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from suites import SUITES, Suite

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "peers"
VERSIONS = "transformers", "torch", "peft", "accelerate"


def outcomes_of(suite: Suite, root: Path, cache: Path, install: bool, share: int) -> list[Any]:
    """Run a suite in a separate process and return a record per test.

    Raises:
        RuntimeError: no test ran to its end.
    """
    path = BUILD / f"{suite.package}-{'with' if install else 'without'}.jsonl"
    path.unlink(missing_ok=True)
    leave = ["-k", " and ".join(f"not {part}" for part in suite.without)] if suite.without else []
    options = ["-q", "-c", str(HERE / "pytest.ini"), "--rootdir", str(root), "--disable-warnings"]
    options += ["-p", "no:cacheprovider", "-p", "plugin", "--outcomes", str(path)]
    options += ["--share", str(share), *leave, *(["--faststeer-install"] if install else [])]
    places = [str(ROOT), str(HERE), str(BUILD / "site"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [places[-1], *places[:-1]])),
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "pytest", *options, *suite.files]
    log = path.with_suffix(".log")
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            command, cwd=root, env=environment, stdout=output, stderr=output, check=False
        )
    if done.returncode not in (0, 1):  # 1: some failed, as they may without faststeer too
        tail = log.read_text(encoding="utf-8")[-2000:]
        raise RuntimeError(
            f"pytest ended with {done.returncode} in {suite.package}'s tests:\n{tail}"
        )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def compared(without: list[Any], with_it: list[Any]) -> dict[str, Any]:
    """Return the counts of two runs of a suite, and every test whose outcomes differ."""
    stock, fused = ({test["id"]: test for test in run} for run in (without, with_it))
    missing = {"outcome": "did not run", "reason": ""}
    differing = []
    for name in sorted(stock.keys() | fused.keys()):
        one, other = stock.get(name, missing), fused.get(name, missing)
        if one["outcome"] != other["outcome"]:
            keys = {"without": one["outcome"], "with": other["outcome"]}
            differing.append({"id": name, **keys, "reason": other["reason"] or one["reason"]})
    decoders: Counter[str] = Counter()
    for test in with_it:
        decoders.update(test["fused"])
    return {
        "tests": len(with_it),
        "without": dict(Counter(test["outcome"] for test in without)),
        "with": dict(Counter(test["outcome"] for test in with_it)),
        "tests_with_fused_decoders": sum(bool(test["fused"]) for test in with_it),
        "fused_decoders": dict(decoders),
        "fused_without_install": sum(bool(test["fused"]) for test in without),
        "differing": differing,
    }


def table(records: list[dict[str, Any]]) -> Table:
    """Return the counts of all suites as a table for the terminal."""
    made = Table("tests of", "run", "passed", "with a fused decoder", "differing", box=box.SIMPLE)
    for each in records:
        passed = f"{each['without'].get('passed', 0)} without, {each['with'].get('passed', 0)} with"
        facts = [each["tests"], passed, each["tests_with_fused_decoders"], len(each["differing"])]
        made.add_row(f"{each['package']} {each['version']}", *map(str, facts))
    return made


def main(
    output: Annotated[Path | None, typer.Option(help="Write the counts as JSON.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Run a fixed share of the tests.")] = False,
    only: Annotated[str, typer.Option(help="Run this package's tests only.")] = "",
) -> None:
    """Run every suite twice; exit code 1 if an outcome differs or nothing was fused."""
    console = Console(width=110)
    cache = BUILD / f"hub-{version('transformers')}"
    hub.write_hub(cache, console.print)
    records = []
    for suite in SUITES:
        if only not in ("", suite.package):
            continue
        root = sources.unpacked_tests(suite.package, BUILD)
        share = suite.share if quick else 1
        runs = [outcomes_of(suite, root, cache, install, share) for install in (False, True)]
        facts = {"package": suite.package, "version": version(suite.package)}
        records.append(facts | compared(*runs))
        for each in records[-1]["differing"]:
            console.print(f"{each['id']}: {each['without']} -> {each['with']}: {each['reason']}")
    console.print(table(records))
    if output is not None:
        facts = {"versions": {name: version(name) for name in VERSIONS}, "suites": records}
        output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    if any(each["differing"] or not each["tests_with_fused_decoders"] for each in records):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
