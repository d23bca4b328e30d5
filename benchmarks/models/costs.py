"""Interleaved comparison of calls: wall time, processor time and peak memory."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from faststeer.diagnostics.bench.timing import OtherLoad, Samples

Record = dict[str, Any]


def peak_memory(call: Callable[[], object]) -> float:
    """Return a call's peak memory in MiB, above what was allocated before it.

    On a GPU that of the device, otherwise that of the process, which Linux reports and resets
    under /proc.
    """
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        torch.cuda.reset_peak_memory_stats()
        there = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - there) / 2**20

    def status(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

    gc.collect()  # memory freed during the call would hide as much of its peak,
    ctypes.CDLL(None).malloc_trim(0)  # and so would memory that earlier calls left to the allocator
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    call()
    return (status("VmHWM") - before) / 1024


def compare(
    title: str, calls: dict[str, Callable[[], object]], over: str, rounds: int, console: Console
) -> Record:
    """Time interleaved calls, in wall and processor seconds, and measure each one's peak memory."""
    other_load = OtherLoad()
    samples = {name: [] for name in calls}
    processor = {name: [] for name in calls}
    with torch.inference_mode():
        for call in calls.values():
            call()
        for turn in range(rounds):
            names = [*calls][turn % len(calls) :] + [*calls][: turn % len(calls)]
            for name in names:
                begin, used = time.perf_counter(), time.process_time()
                calls[name]()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                samples[name].append(time.perf_counter() - begin)
                processor[name].append(time.process_time() - used)
        peaks = {name: peak_memory(call) for name, call in calls.items()}
    seconds, used = Samples(samples), Samples(processor)
    table = Table("", "seconds", "of its", "processor", "of its", "peak MiB", title=title)
    record: Record = {"cores_elsewhere": other_load.cores(), "over": over, "rounds": rounds}
    for name in calls:
        own = {
            "seconds": seconds.median(name),
            "times": 1 / seconds.speedup(name, over),
            "processor_seconds": used.median(name),
            "processor_times": 1 / used.speedup(name, over),
            "peak_mib": peaks[name],
        }
        record[name] = own
        table.add_row(
            name,
            f"{own['seconds']:.3f}",
            f"{own['times']:.3f}",
            f"{own['processor_seconds']:.3f}",
            f"{own['processor_times']:.3f}",
            f"{own['peak_mib']:.0f}",
        )
    console.print(table)
    return record
