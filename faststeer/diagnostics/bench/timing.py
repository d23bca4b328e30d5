"""Compare functions on a noisy machine: interleaved samples, medians and the load of others."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

_MIN_CALLS = 3
_FEWEST_ROUNDS = 4  # that have a middle half

Variant = TypeVar("Variant")


@dataclass(frozen=True)
class Ratio:
    """The time of a variant over stock's: the median and the middle half of the rounds' ratios.

    No second time is printed beside it: the ratio of two medians is not the median of the ratios.
    """

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        """Return the ratio with its scatter."""
        scatter = f"middle half of {self.rounds} rounds: {self.middle_half}"
        return f"{self.median:.3f} times stock's time ({scatter})"

    @property
    def middle_half(self) -> str:
        """The bounds of the middle half, as they are printed."""
        return f"{self.low:.3f}-{self.high:.3f}"

    @property
    def verdict(self) -> str:
        """The word "slower" or "faster" as the printed digits have it, or why neither is known."""
        if self.rounds < _FEWEST_ROUNDS:
            return "too few rounds to tell"
        if round(self.low, 3) <= 1 <= round(self.high, 3):
            return "cannot be told apart"
        return "slower" if self.low > 1 else "faster"


@dataclass(frozen=True)
class Samples:
    """The seconds per call of each variant; entry r of every list was taken in round r."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Return the median seconds per call."""
        return statistics.median(self.seconds[name])

    def speedup(self, name: str, over: str) -> float:
        """Return how many times faster `name` is than `over`.

        It is the median of the rounds' ratios, not the ratio of the medians: a slowdown of the
        machine for a round affects both and cancels.
        """
        pairs = zip(self.seconds[over], self.seconds[name], strict=True)
        return statistics.median(slow / fast for slow, fast in pairs)

    def ratio_quartiles(self, name: str, against: str) -> tuple[float, float]:
        """Return the bounds of the middle half of the ratios of two variants' times, per round."""
        pairs = zip(self.seconds[name], self.seconds[against], strict=True)
        ratios = [own / other for own, other in pairs]
        if len(ratios) == 1:
            return ratios[0], ratios[0]
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return low, high

    def ratio(self, name: str, against: str) -> Ratio:
        """Return the time of `name` over that of `against`, with its scatter."""
        low, high = self.ratio_quartiles(name, against)
        return Ratio(self.speedup(against, over=name), low, high, len(self.seconds[name]))


def _seconds_per_call(call: Callable[[], object], calls: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


def _calls_to_fill(
    call: Callable[[], object], sample_seconds: float, clock: Callable[[], float]
) -> int:
    calls = _MIN_CALLS
    while calls * _seconds_per_call(call, calls, clock) < sample_seconds:
        calls *= 2
    return calls


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    rounds: int = 15,
    sample_seconds: float = 0.0025,
    clock: Callable[[], float] = time.perf_counter,
) -> Samples:
    """Time every variant once per round, in the order given, for `rounds` rounds.

    A sample is a loop of at least three calls that takes `sample_seconds` to twice that, or as
    long as three calls take. Each variant first runs untimed, until its loop fills a sample.
    """
    calls = {}
    for name, call in variants.items():
        call()  # a first call that compiles for seconds must not count as a sample
        calls[name] = _calls_to_fill(call, sample_seconds, clock)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            seconds[name].append(_seconds_per_call(call, calls[name], clock))
    return Samples(seconds)


def round_robin(
    variants: Mapping[str, Variant],
    device: torch.device,
    prepare: Callable[[], None],
    call: Callable[[Variant], object],
    rounds: int,
    advance: Callable[[int], object],
) -> Samples:
    """Time one call of every variant per round; `prepare` runs before each, untimed.

    Each round starts with another variant, so that none profits from its place; the first round is
    a warm-up. `interleaved` repeats a call within a sample, which a growing cache forbids and a
    call of milliseconds does not need.
    """
    synchronize = _synchronizer(device)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with torch.inference_mode():
        for turn in range(rounds + 1):
            first = turn % len(variants)
            for name, variant in [*variants.items()][first:] + [*variants.items()][:first]:
                prepare()
                synchronize()
                start = time.perf_counter()
                call(variant)
                synchronize()
                seconds[name].append(time.perf_counter() - start)
                advance(1)
    return Samples({name: own[1:] for name, own in seconds.items()})


def _synchronizer(device: torch.device) -> Callable[[], None]:
    """Return a function that waits until the device has finished all its work."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


class OtherLoad:
    """The load of other programs on this machine, from construction until `cores` is called.

    A function that uses all cores waits at every barrier for a thread that another program keeps
    off its core: with both of two cores busy, 20 us became 20 ms.
    """

    def __init__(self) -> None:
        self._started_at = time.perf_counter()
        self._used_before = _cpu_seconds_of_others()

    def cores(self) -> float | None:
        """Return the mean number of cores that others kept busy; None where it is not available."""
        used = _cpu_seconds_of_others()
        if used is None or self._used_before is None:
            return None
        return max(0.0, used - self._used_before) / (time.perf_counter() - self._started_at)


def _cpu_seconds_of_others() -> float | None:
    try:
        first_line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first_line.split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()


def copy_bandwidth(size: int = 2**28, rounds: int = 15) -> float:
    """Measure torch's copy between two buffers: bytes per second, read and written.

    The default `size`, 256 MiB each, exceeds the caches of most machines.
    """
    source = torch.ones(size, dtype=torch.uint8)
    target = torch.empty_like(source)
    samples = interleaved({"copy": lambda: target.copy_(source)}, rounds)
    return 2 * size / samples.median("copy")
