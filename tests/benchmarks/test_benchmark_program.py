"""The ops benchmark from its options to its output: tables, JSON and a picture."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import plot
import pytest
import run as program
import tables
import torch
import typer
from cases import Case, Dtype, Entries, Op
from clocks import DeviceClock
from compiled_peers import Compiler, LeftOut
from grids import Grid, default_grids
from measure import measure
from places import BENCHMARKS, ROOT
from rich.console import Console
from variants import FRESH, INTO, STOCK

import faststeer.ops
from faststeer.utils.plot_style import figure_style
from faststeer.utils.warnings import FaststeerWarning

COMMITTED = json.loads((BENCHMARKS / "results" / "ops-cpu.json").read_text())
NORM = Case(Op.steer_add_rms_norm, Dtype.bfloat16, 4, 64, 4, Entries.shared)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python; a nested pytest must not consider itself a worker of this one."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"},
        capture_output=True,
        text=True,
        check=True,
    )


def require_nothing_private(text: str) -> None:
    assert platform.node() not in text
    assert str(ROOT) not in text
    assert '"/' not in text  # nor any other path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Return result, printed text and picture of a run with two rows and no torch.compile."""
    output = tmp_path_factory.mktemp("result") / "tiny.json"
    choice = ("--hidden", "64", "--rows", "1", "--rows", "3", "--rounds", "1", "--compile", "none")
    printed = run("benchmarks/ops/run.py", *choice, "--output", str(output)).stdout
    require_nothing_private(output.read_text())
    return json.loads(output.read_text()), printed, output.with_suffix(".png")


def test_a_result_states_the_machine_the_settings_and_every_case(tiny) -> None:
    result, _, _ = tiny
    assert set(result) == set(COMMITTED)
    assert {"cpu", "threads", "torch", "faststeer", "isa", "commit"} <= set(result["machine"])
    assert result["settings"] == {"device": "cpu", "hidden": 64, "rounds": 1}
    assert result["copy_bytes_per_second"] > 0
    cases = [(case["rows"], case["entries"], case["vectors"]) for case in result["cases"]]
    assert cases == [(n, entries, 4) for n in (1, 3) for entries in ("per-row", "shared")]
    assert result["targets"] == []


def test_a_share_of_the_copy_is_bytes_over_time_over_the_copy(tiny) -> None:
    for result in (tiny[0], COMMITTED):
        for case in result["cases"]:
            for name, share in case["share_of_copy"].items():
                seconds = case["microseconds"][name] / 1e6
                of_copy = case["bytes"][name] / seconds / result["copy_bytes_per_second"]
                assert share == pytest.approx(of_copy)


def test_peers_that_were_not_compiled_are_reported(tiny) -> None:
    result, printed, _ = tiny
    assert {each["variant"] for each in result["left_out"]} == {
        "torch.compile",
        "torch.compile unsteered",
    }
    assert "left out (not selected): torch.compile of 4 steer_add_rms_norm bfloat16" in printed


def test_the_printed_table_has_bytes_and_speedups(tiny) -> None:
    result, printed, _ = tiny
    case = result["cases"][0]
    line = next(line for line in printed.splitlines() if line.split()[:3] == ["1", "4", "per-row"])
    assert f"{case['bytes'][FRESH]:,}" in line
    assert f"{case['speedup'][FRESH][STOCK]:.2f}x" in line
    assert f"{case['speedup'][INTO][STOCK]:.2f}x" in line


def test_a_picture_is_written_beside_the_result(tiny) -> None:
    assert tiny[2].read_bytes().startswith(b"\x89PNG")


def test_the_picture_can_be_drawn_again_from_a_result(tmp_path: Path) -> None:
    source = tmp_path / "committed.json"
    source.write_text(json.dumps(COMMITTED))
    run("benchmarks/ops/plot.py", str(source))
    assert source.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_names_every_variant_beside_its_line_in_plain_digits() -> None:
    with figure_style():
        figure = plot.make_figure(COMMITTED)
    drawn = plot.panels(COMMITTED["cases"])
    assert len(figure.axes) == 2 * len(drawn)
    for axes, records in zip(figure.axes[::2], drawn.values(), strict=True):
        measured = {name for record in records for name in record["share_of_copy"]}
        wanted = {label for name, (label, _) in plot.LINES.items() if name in measured}
        assert {" ".join(text.get_text().split()) for text in axes.texts} == wanted
        boxes = [text.get_window_extent() for text in axes.texts]
        assert not any(a.overlaps(b) for at, a in enumerate(boxes) for b in boxes[:at])
        assert axes.get_ylim()[1] > max(
            record["share_of_copy"][name] for record in records for name in measured & {FRESH, INTO}
        )
    ticks = [text.get_text() for axes in figure.axes for text in axes.get_xticklabels(which="both")]
    assert all(text.replace(",", "").isdigit() for text in ticks)


def test_without_matplotlib_a_message_is_printed_instead_of_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    plot.draw(COMMITTED, tmp_path / "none.png")
    assert "matplotlib is not installed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_op_that_fails_loses_only_its_own_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = faststeer.ops.steer_add

    def wrong_at_three_rows(x: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        return right(x, *others) * (2 if len(x) == 3 else 1)

    monkeypatch.setattr(faststeer.ops, "steer_add", wrong_at_three_rows)
    output = tmp_path / "result.json"
    choice = {"op": [Op.steer_add], "rows": [1, 3], "hidden": 64, "rounds": 1}
    with pytest.raises(typer.Exit) as left:
        program.main(**choice, compiled=program.Compile.none, output=output)
    assert left.value.exit_code == 1
    result = json.loads(output.read_text())
    assert {case["rows"] for case in result["cases"]} == {1}
    failed = [each for each in result["left_out"] if each["variant"] == "faststeer's op"]
    assert [each["why"] for each in failed] == ["failed with AssertionError"] * 2


def test_without_kernels_for_a_device_its_reference_is_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def warns(*arguments: object) -> None:
        warnings.warn("the reference runs instead", FaststeerWarning, stacklevel=1)

    monkeypatch.setattr(faststeer.ops, "steer_add", warns)
    with pytest.raises(FaststeerWarning):
        program.main(op=[Op.steer_add], rows=[1], hidden=64, compiled=program.Compile.none)


class HostEvent:
    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: HostEvent) -> float:
        return (end.at - self.at) * 1e3


@pytest.fixture(scope="module")
def as_on_a_gpu() -> list[dict[str, Any]]:
    """Return records of all ops in a GPU's format, cold and warm, timed by the host's clock."""
    clock = DeviceClock(10**6, lambda: None, lambda run: run, HostEvent, lambda: None)
    compiler = Compiler(lambda name, case: False)
    dtypes = (Dtype.bfloat16, Dtype.float32)
    grid = Grid(tuple(Op), dtypes, (16, 4), (0, 1, 4), tuple(Entries), hidden=64)
    with torch.inference_mode():
        return [
            record
            for case in grid.cases()
            for record in measure(case, "cpu", clock, compiler, rounds=1, copy=1e9)
        ]


def test_cold_and_warm_are_both_reported_and_labelled(as_on_a_gpu) -> None:
    labels = [(record["cache"], record["clock"]) for record in as_on_a_gpu]
    assert labels == [("cold", "graph"), ("warm", "graph")] * (len(labels) // 2)


def test_the_picture_of_a_gpu_shows_cold_caches_one_dtype_and_four_vectors(as_on_a_gpu) -> None:
    panels = plot.panels(as_on_a_gpu)
    kinds = {
        (record["cache"], record["dtype"], record["vectors"])
        for records in panels.values()
        for record in records
    }
    assert kinds == {("cold", "bfloat16", 4), ("cold", "bfloat16", 0)}
    assert [[record["rows"] for record in records] for records in panels.values()] == [[4, 16]] * 4
    ops = [title.split(",")[0] for title in panels]
    assert ops == ["steer_add_rms_norm"] * 2 + ["steer_add", "accumulate_moments"]


def test_tables_of_a_gpu_hold_every_record(as_on_a_gpu) -> None:
    made = list(tables.case_tables(as_on_a_gpu))
    assert sum(table.row_count for table in made) == 2 * len(as_on_a_gpu)
    titles = [str(table.title) for table in made]
    assert titles[0] == "accumulate_moments, bfloat16, cold cache"
    assert len(set(titles)) == len(titles) == 3 * 2 * 2 * 2  # ops, dtypes, caches; and medians
    rows = [int(cell) for cell in made[0].columns[0].cells]
    assert rows == [4, 16] * (len(rows) // 2)


def test_a_missed_target_stands_out() -> None:
    console = Console(width=130, file=io.StringIO())
    console.print(tables.targets_table(COMMITTED["targets"]))
    lines = console.file.getvalue().splitlines()
    missed = [line for line in lines if "MISS" in line]
    assert len(missed) == sum(not verdict["met"] for verdict in COMMITTED["targets"])
    verdicts = [verdict for verdict in COMMITTED["targets"] if not verdict["met"]]
    for verdict, line in zip(verdicts, missed, strict=True):
        assert {str(verdict["rows"]), f"{verdict['at_least']:.2f}x"} <= set(line.split())


def test_left_out_peers_are_summarised_in_a_line_per_reason() -> None:
    wide = Case(Op.steer_add, Dtype.float16, 256, 64)
    left_out = [
        LeftOut("torch.compile", NORM, "not selected"),
        LeftOut("torch.compile", wide, "not selected"),
        LeftOut("torch.compile", Case(Op.steer_add, Dtype.float16, 16, 64), "not selected"),
    ]
    assert tables.left_out_lines(left_out) == [
        "left out (not selected): torch.compile of 1 steer_add_rms_norm bfloat16 cases, rows 4",
        "left out (not selected): torch.compile of 2 steer_add float16 cases, rows 16, 256",
    ]


def test_without_options_a_cpu_measures_the_cases_of_the_readme() -> None:
    by_default = [case for grid in default_grids("cpu", full=False) for case in grid.cases()]
    committed = [(case["rows"], case["entries"]) for case in COMMITTED["cases"]]
    assert [(case.rows, case.entries.value) for case in by_default] == committed
    assert {(case.op, case.dtype, case.hidden, case.vectors) for case in by_default} == {
        (Op.steer_add_rms_norm, Dtype.bfloat16, 4096, 4)
    }


def test_the_grid_of_a_gpu_has_every_op_and_dtype_and_full_is_every_combination() -> None:
    by_default, full = (
        [case for grid in default_grids("cuda", full) for case in grid.cases()]
        for full in (False, True)
    )
    assert {case.op for case in by_default} == set(Op)
    assert {case.dtype for case in by_default} == set(Dtype)
    assert set(by_default) < set(full)
    rows, dtypes, steered, moments = 8, 3, 2 * (1 + 3 * 2 + 1), 2
    assert len(set(full)) == len(full) == rows * dtypes * (steered + moments)


def test_a_run_under_pytest_benchmark_keeps_no_samples_and_nothing_private(tmp_path: Path) -> None:
    output = tmp_path / "run.json"
    chosen = "steer_add_rms_norm and 1x4096 and shared and into"
    quick = ("--benchmark-json", str(output), "-p", "no:cacheprovider")
    run("-m", "pytest", "benchmarks/ops/test_calls.py", "-k", chosen, *quick)
    text = output.read_text()
    require_nothing_private(text)
    (only,) = json.loads(text)["benchmarks"]
    assert only["extra_info"]["bytes"] == 73_760
    assert only["stats"]["median"] > 0
    assert "data" not in only["stats"]
