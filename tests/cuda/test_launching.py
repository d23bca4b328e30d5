"""What a launch asks of CUDA, and what becomes of errors: launch.cuh over a stand-in runtime."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest
from built_wheel import BuiltOnce
from compiling_kernels import NoToolkitError, build_launching
from cuda_libraries import missing

Launched = Callable[..., list[str]]


@pytest.fixture(scope="module")
def launched(built_once: BuiltOnce) -> Launched:
    """Return a function that tries what launching.cpp names, and returns the lines it prints."""
    try:
        program = built_once("launching", build_launching) / "launching"
    except NoToolkitError as error:
        missing(str(error))

    def run(what: str, **environment: str) -> list[str]:
        kept = {name: value for name, value in os.environ.items() if name != "FASTSTEER_PDL"}
        command = [str(program), what]
        done = subprocess.run(
            command, env=kept | environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    return run


def test_a_failed_launch_does_not_fail_the_next_one(launched: Launched) -> None:
    assert launched("failure") == [
        "threw launching a kernel: CUDA's words",
        "launched with 0 bytes",
        "threw launching a kernel: CUDA's words",
        "launched with 0 bytes",
        "last error 0",
    ]


def test_a_smaller_call_takes_no_shared_memory_from_a_larger_one(launched: Launched) -> None:
    assert launched("in between") == [
        f"launched with {60 * 1024} bytes",
        f"launched with {200 * 1024} bytes",
    ]


@pytest.mark.parametrize(
    ("setting", "what", "overlaps"),
    [
        ({}, "launch", False),
        ({"FASTSTEER_PDL": "0"}, "launch", False),
        ({"FASTSTEER_PDL": "1"}, "launch", True),
        ({"FASTSTEER_PDL": "1"}, "older gpu", False),
    ],
)
def test_kernels_overlap_only_where_faststeer_pdl_asks_for_it_and_the_gpu_can(
    launched: Launched, setting: dict[str, str], what: str, overlaps: bool
) -> None:
    assert launched(what, **setting) == ["launched with 0 bytes" + overlaps * ", may overlap"]
