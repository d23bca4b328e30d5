"""Comparing functions on a noisy machine: interleaved samples, medians, facts for the record."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from faststeer.version import VERSION

_LEAST_CALLS = 3


@dataclass(frozen=True)
class Samples:
    """Seconds a call of each variant; entry r of every list was taken in round r."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds a call."""
        return statistics.median(self.seconds[name])

    def speedup(self, name: str, over: str) -> float:
        """How many times faster `name` is than `over`.

        The median of the rounds' ratios, not the ratio of medians: what slows the machine for a
        round slows both and cancels.
        """
        pairs = zip(self.seconds[over], self.seconds[name], strict=True)
        return statistics.median(slow / fast for slow, fast in pairs)


def _seconds_a_call(call: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    begin = clock()
    for _ in range(calls):
        call()
    return (clock() - begin) / calls


def _calls_to_fill(
    call: Callable[[], object], sample_seconds: float, clock: Callable[[], float]
) -> int:
    calls = _LEAST_CALLS
    while calls * _seconds_a_call(call, calls, clock) < sample_seconds:
        calls *= 2
    return calls


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    sample_seconds: float = 0.0025,
    clock: Callable[[], float] = time.perf_counter,
) -> Samples:
    """Time every variant once a round, in the order given, for `rounds` rounds.

    A sample is a loop of at least three calls that takes `sample_seconds` to twice that, or as
    long as three calls take. Each variant first runs untimed, until its loop fills a sample.
    """
    calls = {}
    for name, call in variants.items():
        call()  # the first call may compile for seconds and would pass for a full sample
        calls[name] = _calls_to_fill(call, sample_seconds, clock)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            seconds[name].append(_seconds_a_call(call, calls[name], clock))
    return Samples(seconds)


def copy_bandwidth(size: int = 2**28, rounds: int = 15) -> float:
    """Bytes a second, read and written, of torch's own copy between two buffers of `size` bytes.

    The default, 256 MiB each, leaves the caches of most machines behind.
    """
    source = torch.ones(size, dtype=torch.uint8)
    target = torch.empty_like(source)
    samples = interleaved({"copy": lambda: target.copy_(source)}, rounds)
    return 2 * size / samples.median("copy")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def machine_facts() -> dict[str, str | int | float | None]:
    """What a timing means nothing without, and nothing that tells whose machine it is.

    ``load_average`` is that of the last minute: near or above ``cores``, others were running too.
    """
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "faststeer": VERSION,
    }


def source_commit(directory: Path) -> str | None:
    """The git commit that `directory` is at, marked if it was edited; None where git cannot say."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=directory,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
