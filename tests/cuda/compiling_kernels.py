"""Builds the driver beside this file with g++, the toolkit's headers and the sanitizers."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cuda_toolkit import NoToolkitError, find_nvcc

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

__all__ = ["PROGRAM", "NoToolkitError", "build", "build_launching"]

PROGRAM = "driver"

CSRC = ROOT / "csrc"
SOURCES = (  # the one that takes longest first
    CSRC / "cuda" / "steer_norm.cu",
    CSRC / "cuda" / "steer_norm_modes.cu",
    CSRC / "cuda" / "backward.cu",
    CSRC / "cuda" / "moments.cu",
    CSRC / "cuda" / "backward_plan.cpp",
    CSRC / "cuda" / "launch_plan.cpp",
    HERE / "driver.cpp",
    HERE / "fibres.cpp",
    HERE / "faulty.cu",
)
SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# nvcc never contracts __fadd_rn and __fmul_rn, and knows no strict aliasing.
FLAGS = ("-std=c++20", "-O1", "-g1", "-ffp-contract=off", "-fno-strict-aliasing")
WARNINGS = ("-Wall", "-Wextra", "-Wno-unknown-pragmas")
INCLUDES = (f"-I{HERE / 'stand_in'}", f"-I{HERE}", f"-I{CSRC}")


def toolkit_includes() -> list[str]:
    """Flags with which nvcc finds the toolkit's headers; raises NoToolkitError."""
    command = [find_nvcc(), "--dryrun", "-x", "cu", os.devnull]
    stderr = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    flags = []
    for line in re.findall(r"^#\$ (?:SYSTEM_)?INCLUDES=(.*)$", stderr, re.MULTILINE):
        flags += shlex.split(line.replace('"', " "))
    return [flag.replace("-I", "-isystem", 1) for flag in flags]


def build(folder: Path) -> None:
    """Compile the driver into `folder`; a minute's work for one core, done on all of them."""
    compiler = os.environ.get("CXX", "g++")
    common = [compiler, *FLAGS, *WARNINGS, *SANITIZE, *INCLUDES, *toolkit_includes()]

    def compiled(source: Path) -> Path:
        target = folder / f"{source.name}.o"
        _run([*common, "-x", "c++", "-c", str(source), "-o", str(target)])
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = [str(path) for path in pool.map(compiled, SOURCES)]
    _run([compiler, *SANITIZE, "-rdynamic", *objects, "-ldl", "-o", str(folder / PROGRAM)])


def build_launching(folder: Path) -> None:
    """Compile launching.cpp, which is the CUDA runtime of the launcher as it is, into `folder`."""
    compiler = os.environ.get("CXX", "g++")
    sources = [str(HERE / "launching.cpp"), str(CSRC / "cuda" / "launch_plan.cpp")]
    includes = [f"-I{CSRC}", *toolkit_includes()]
    command = [compiler, *FLAGS, *WARNINGS, *SANITIZE, *includes, *sources]
    _run([*command, "-o", str(folder / "launching")])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr}")
