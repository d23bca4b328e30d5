"""Facts about the machine and the code, for results files."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from faststeer.utils.version import VERSION


def cpu_model() -> str:
    """As the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def machine_facts() -> dict[str, str | int | None]:
    """What a timing means nothing without, and nothing that tells whose machine it is."""
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
    """What there is to add for torch's current CUDA device."""
    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
    }


def installed_version(distribution: str) -> str | None:
    """The version of an installed package, None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def source_commit(directory: Path) -> str | None:
    """The git commit that `directory` is at, marked if it was edited; None where git cannot say."""
    describe = ("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    return _first_line(*describe, directory=directory)


def _first_line(*command: str, directory: Path | None = None) -> str | None:
    """What a program prints, None if it is not there or fails."""
    try:
        ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return ran.stdout.partition("\n")[0].strip()
