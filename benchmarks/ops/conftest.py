"""Reduce the results that `make bench` stores to statistics that do not identify the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faststeer import _C
from faststeer.utils.machine import machine_facts, source_commit


def pytest_benchmark_generate_machine_info(config: Any) -> dict[str, Any]:
    return machine_facts() | {"isa": _C.isa()}


def pytest_benchmark_generate_commit_info(config: Any) -> dict[str, Any]:
    return {"id": source_commit(Path(__file__).parent)}


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)  # individual samples would take megabytes
