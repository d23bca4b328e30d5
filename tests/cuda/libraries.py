"""Both libraries, built with nvcc whatever torch is installed, beside a copy of the package."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

import cuda_toolkit

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Libraries:
    folder: Path  # holds faststeer/
    objects: Path
    said: str  # by the compilers

    @property
    def cuda(self) -> Path:
        (library,) = (self.folder / "faststeer").glob("_cuda.*")
        return library

    def python(self, program: str, *arguments: object) -> str:
        """What a program prints that imports this build."""
        result = subprocess.run(
            (sys.executable, "-c", program, *map(str, arguments)),
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
        return result.stdout


def missing(what: str) -> NoReturn:
    """Skips the test, but not where everything has to be there."""
    if "CI" in os.environ:
        pytest.fail(what)
    pytest.skip(what)


def run_setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`setup.py build_ext` into `folder`."""
    build = ("build_ext", "--build-lib", str(folder), "--build-temp", str(folder / "objects"))
    kept = {name: value for name, value in os.environ.items() if name != "FASTSTEER_CUDA_ARCHS"}
    return subprocess.run(
        (sys.executable, "setup.py", "-q", *build),
        cwd=ROOT,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@cache
def shared_libraries() -> Libraries:
    """Built once a session."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build_libraries(folder)


def build_libraries(folder: Path) -> Libraries:
    """Builds for all architectures; ptxas tells what every kernel needs."""
    try:
        cuda_toolkit.find_nvcc()
    except cuda_toolkit.NoToolkitError as error:
        missing(str(error))
    result = run_setup(folder, FASTSTEER_CUDA="1", NVCC_APPEND_FLAGS="-Xptxas=-v")
    assert result.returncode == 0, result.stdout[-3000:]
    shutil.copytree(
        ROOT / "faststeer",
        folder / "faststeer",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
        dirs_exist_ok=True,
    )
    return Libraries(folder, folder / "objects", result.stdout)


def cuobjdump(*arguments: object) -> str:
    """What the toolkit's cuobjdump tells, or PyPI's."""
    path = os.environ.get("PATH", "")
    packages = importlib.util.find_spec("nvidia")
    for folder in packages.submodule_search_locations or () if packages else ():
        path += "".join(f"{os.pathsep}{tools}" for tools in Path(folder).glob("cu*/bin"))
    programs = [shutil.which(name, path=path) for name in ("cuobjdump", "nvdisasm")]
    if programs[0] is None or programs[1] is None:
        missing("there is no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    return subprocess.run(
        (programs[0], *map(str, arguments)),
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
