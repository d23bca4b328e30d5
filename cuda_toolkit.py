"""Finds nvcc, and decides whether the CUDA kernels are built and for which architectures.

They are built where torch has CUDA and nvcc is found. Environment: FASTSTEER_CUDA=1 builds them
with any torch, FASTSTEER_CUDA=0 leaves them out; FASTSTEER_CUDA_ARCHS, "90" or "80,90", names the
architectures; CUDA_HOME names a toolkit, and else nvcc is looked for on PATH and in DEFAULT_HOME.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Each also runs on the later GPUs of its generation; PTX of the last one runs on what comes after.
ARCHITECTURES = (75, 80, 90, 100)
OLDEST_NVCC = (12, 0)  # the first that reads C++20
DEFAULT_HOME = Path("/usr/local/cuda")


class NoToolkitError(Exception):
    """There is no toolkit that can build the kernels; the message says why."""


@dataclass(frozen=True)
class Toolkit:
    """An nvcc and what it is asked to compile for."""

    nvcc: Path
    version: str
    architectures: tuple[int, ...]  # ascending

    def flags(self) -> list[str]:
        """Machine code for every architecture, and PTX of the newest."""
        newest = self.architectures[-1]
        codes = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in self.architectures[:-1]]
        return [*codes, f"-gencode=arch=compute_{newest},code=[sm_{newest},compute_{newest}]"]

    def __str__(self) -> str:
        codes = ", ".join(f"sm_{n}" for n in self.architectures)
        return f"nvcc {self.version} for {codes} and PTX compute_{self.architectures[-1]}"


def choose(torch_version: str, torch_cuda: str | None) -> Toolkit | str:
    """The toolkit to build with, or why the kernels are left out.

    `torch_cuda` is `torch.version.cuda`. Raises SystemExit for settings that cannot be followed.
    """
    wanted = os.environ.get("FASTSTEER_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"FASTSTEER_CUDA is {wanted!r}; expected 0, 1 or nothing")
    if wanted == "0":
        return "FASTSTEER_CUDA was 0"
    if not wanted and torch_cuda is None:
        return f"torch {torch_version} had no CUDA"
    try:
        return find()
    except NoToolkitError as error:
        if wanted:
            raise SystemExit(
                f"FASTSTEER_CUDA=1 asks for the CUDA kernels, but {error}. Install the CUDA "
                "toolkit 12.0 or later and put its nvcc on PATH, or let CUDA_HOME name its folder"
            ) from error
        return str(error)


def find() -> Toolkit:
    """The toolkit of this machine. Raises NoToolkitError."""
    nvcc = find_nvcc()
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"V(\d+)\.(\d+)[\d.]*", said)
    if version is None:
        raise NoToolkitError(f"{nvcc} did not tell its version")
    if (int(version[1]), int(version[2])) < OLDEST_NVCC:
        raise NoToolkitError(f"{nvcc} is of CUDA {version[1]}.{version[2]}, older than 12.0")
    return Toolkit(nvcc, version[0][1:], architectures_of(nvcc))


def find_nvcc() -> Path:
    """nvcc or a program that stands for it: only nvcc itself knows where its toolkit lies."""
    home = os.environ.get("CUDA_HOME")
    if home:
        nvcc = Path(home) / "bin" / "nvcc"
        if not nvcc.is_file():
            raise NoToolkitError(f"CUDA_HOME was {home}, where there is no bin/nvcc")
        return nvcc
    on_path = shutil.which("nvcc")
    if on_path:
        return Path(on_path)
    nvcc = DEFAULT_HOME / "bin" / "nvcc"
    if nvcc.is_file():
        return nvcc
    raise NoToolkitError(f"no nvcc was found on PATH or in {DEFAULT_HOME}")


def architectures_of(nvcc: Path) -> tuple[int, ...]:
    """Those of FASTSTEER_CUDA_ARCHS, or of ARCHITECTURES what this nvcc knows."""
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    known = {int(n) for n in re.findall(r"^sm_(\d+)$", listed.stdout, re.MULTILINE)}
    asked = os.environ.get("FASTSTEER_CUDA_ARCHS", "")
    if asked:
        named = re.split(r"[,; ]+", asked.strip())
        chosen = sorted({int(n) for n in named if n.isdigit()})
        if len(chosen) != len(set(named)) or not known.issuperset(chosen):
            raise SystemExit(
                f"FASTSTEER_CUDA_ARCHS is {asked!r}; expected numbers such as 80,90, of which "
                f"{nvcc} knows {', '.join(str(n) for n in sorted(known))}"
            )
        return tuple(chosen)
    left_out = ", ".join(f"sm_{n}" for n in ARCHITECTURES if n not in known)
    if left_out:
        print(f"faststeer: {nvcc} cannot compile for {left_out}: left out")
    return tuple(n for n in ARCHITECTURES if n in known)
