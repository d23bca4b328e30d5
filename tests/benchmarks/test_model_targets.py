"""Verdicts on the cost of injection follow from the measurements of `faststeer bench`."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from places import BENCHMARKS

from faststeer.diagnostics.bench.variants import NAMES

targets = runpy.run_path(str(BENCHMARKS / "models" / "targets.py"))


def measured(device: str = "cpu", phase: str = "decode", **against_idle: float) -> dict[str, Any]:
    """Return a record in which all variants match stock except those named, with given ratios."""
    ratios = {name.replace(" ", "_").replace(",", ""): name for name in NAMES}
    slow = {ratios[f"faststeer_{name}"]: ratio for name, ratio in against_idle.items()}
    rows = [
        {
            "phase": phase,
            "batch_size": 8,
            "variant": name,
            "milliseconds": 1.0,
            "against_stock": slow.get(name, 1.0),
            "against_idle": slow.get(name, 1.0),
        }
        for name in NAMES
    ]
    return {"device": device, "settings": {"batch_sizes": [8]}, "results": rows}


def missed(record: dict[str, Any]) -> list[tuple[str, str, float]]:
    return [
        (each["variant"], each["against"], each["at_most"])
        for each in targets["verdicts_on"](record)
        if not each["met"]
    ]


def test_equal_times_meet_every_target() -> None:
    verdicts = targets["verdicts_on"](measured())
    assert len(verdicts) == 8
    assert all(each["met"] and each["reached"] == 1 for each in verdicts)
    assert {each["batch_size"] for each in verdicts} == {8}


def test_one_percent_over_stock_is_missed_and_over_idle_it_is_not() -> None:
    rows = "faststeer, 4 vectors a row"
    assert missed(measured(**{"4_vectors_a_row": 1.01})) == [(rows, "stock", 1.0)]
    assert missed(measured(**{"4_vectors_a_row": 1.03})) == [
        (rows, "faststeer, idle", 1.02),
        (rows, "stock", 1.0),
        (rows, "faststeer, 1 vector a row", 1.02),
    ]


@pytest.mark.parametrize(
    ("device", "phase", "strict"),
    [
        ("NVIDIA H100", "decode", False),
        ("NVIDIA H100", "decode, captured", True),
        ("NVIDIA H100", "decode, compiled", True),
        ("cpu", "decode, compiled", False),
    ],
)
def test_a_captured_step_may_cost_half_a_percent(device: str, phase: str, strict: bool) -> None:
    found = missed(measured(device, phase, **{"4_vectors_a_row": 1.01}))
    assert (("faststeer, 4 vectors a row", "faststeer, idle", 1.005) in found) == strict


def test_sixty_four_vectors_may_not_cost_more_than_one_does() -> None:
    assert missed(measured(**{"64_vectors": 1.03})) == [
        ("faststeer, 64 vectors", "faststeer, 1 vector", 1.02)
    ]
    alike = {"1_vector": 1.03, "4_vectors": 1.03, "16_vectors": 1.03, "64_vectors": 1.03}
    assert missed(measured(**alike)) == []


def test_prefills_and_unmeasured_variants_have_no_verdict() -> None:
    assert targets["verdicts_on"](measured(phase="prefill")) == []
    record = measured("NVIDIA H100", "decode, compiled")
    compiled = ("stock", "faststeer, idle", "faststeer, 4 vectors a row")
    record["results"] = [row for row in record["results"] if row["variant"] in compiled]
    assert len(targets["verdicts_on"](record)) == 2


def test_verdicts_are_stored_in_the_file_and_printed(tmp_path: Path, capsys) -> None:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(measured(**{"64_vectors": 1.03})))
    targets["main"]([path])
    kept = json.loads(path.read_text())
    assert [each["met"] for each in kept["targets"]].count(False) == 1
    assert kept["results"] == measured(**{"64_vectors": 1.03})["results"]
    printed = capsys.readouterr().out
    assert "1.0300x" in printed
    assert printed.count("MISSED") == 1
