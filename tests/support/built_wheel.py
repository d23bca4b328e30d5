"""The package as users install it: a wheel of the sdist, built and installed once for all tests.

Where nvcc is found it contains the CUDA kernels for all architectures, whichever torch is
installed, and ptxas reports the resources of every kernel.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from places import ROOT

import cuda_toolkit

BuiltOnce = Callable[[str, Callable[[Path], None]], Path]  # conftest's fixture


@dataclass(frozen=True)
class Installed:
    folder: Path

    @property
    def sdist(self) -> Path:
        (path,) = self.folder.glob("*.tar.gz")
        return path

    @property
    def wheel(self) -> Path:
        (path,) = self.folder.glob("*.whl")
        return path

    @property
    def objects(self) -> Path:
        """Return the folder of the compiled objects."""
        (path,) = self.folder.glob("source/*/build/temp.*")
        return path

    @property
    def cuda(self) -> Path:
        """Return the library of CUDA kernels."""
        (path,) = self.folder.glob("site/faststeer/_cuda.*")
        return path

    @property
    def compiler_output(self) -> str:
        """Return the compilers' output."""
        return (self.folder / "output.txt").read_text()

    def python(self, program: str, *arguments: object) -> str:
        """Return the output of a program that imports this faststeer."""
        site = self.folder / "site"
        command = (sys.executable, "-c", program, *map(str, arguments))
        return run(*command, cwd=site, PYTHONPATH=str(site))


def installed(built_once: BuiltOnce) -> Installed:
    return Installed(built_once("installed", build))


def build(folder: Path) -> None:
    make = (sys.executable, "-m", "build", "--no-isolation", "-o", str(folder))
    run(*make, "--sdist", str(ROOT), cwd=folder)
    made = Installed(folder)
    shutil.unpack_archive(made.sdist, folder / "source")  # extractall's filter came with 3.11.4
    (source,) = (folder / "source").iterdir()
    try:
        cuda_toolkit.find_nvcc()
    except cuda_toolkit.NoToolkitError:
        output = run(*make, "--wheel", str(source), cwd=folder)
    else:
        with_cuda = {"FASTSTEER_CUDA": "1", "NVCC_APPEND_FLAGS": "-Xptxas=-v"}
        output = run(*make, "--wheel", str(source), cwd=folder, **with_cuda)
    (folder / "output.txt").write_text(output)
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps")
    run(*pip, "--target", str(folder / "site"), str(made.wheel), cwd=folder)


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Return the command's output."""
    kept = {name: value for name, value in os.environ.items() if name != "FASTSTEER_CUDA_ARCHS"}
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout
