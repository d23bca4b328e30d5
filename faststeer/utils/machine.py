"""Facts about the machine and the source code, for files of results."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from faststeer.utils.version import VERSION


def cpu_model() -> str:
    """Return the processor's own name for its model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def machine_facts() -> dict[str, str | int | None]:
    """Return the facts that a timing depends on, and none that identify the machine's owner."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "faststeer": VERSION,
    }


def gpu_facts() -> dict[str, str | None]:
    """Return the further facts for torch's current CUDA device."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
    }


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def source_commit(directory: Path) -> str | None:
    """Return the git commit of `directory`, marked if it was edited; None without git."""
    describe = ("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return _first_line(*describe, directory=directory)


def _first_line(*command: str, directory: Path | None = None) -> str | None:
    """Return the first line that a program prints; None if it is missing or fails."""
    try:
        ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return ran.stdout.partition("\n")[0].strip()
