"""Timing of calls: in loops on the CPU, between device events on a GPU, always interleaved."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from cases import Inputs, copied, size
from variants import Bind, Call

from faststeer.diagnostics.bench import timing
from faststeer.diagnostics.bench.timing import OtherLoad, Samples

Run = Callable[[], object]

SAMPLE_BYTES = 3 * 2**29  # half a millisecond at 3 TB/s: a launch in front of it is under 1 %
FEWEST_CALLS, MOST_CALLS = 4, 128
# Below this a call can finish before the host has launched the next: 90 us at 3 TB/s, where a
# compiled call takes the host 40 us.
GRAPH_BELOW = 2**28
# Inputs of this total size, read cyclically, leave almost nothing in a cache with random eviction.
CACHES_TO_FLUSH = 3


@dataclass(frozen=True)
class Timing:
    cache: str  # "warm": the same inputs again; "cold": inputs that left the L2 cache, or never fit
    clock: str  # "loop" on the host, "graph" replay or plain calls in a "stream" on the device
    samples: Samples
    cores_elsewhere: float | None = None


class HostClock:
    """Timer on the host's clock; inputs are as warm as the caches keep them."""

    def copy_bandwidth(self) -> float:
        return timing.copy_bandwidth()

    def timings(
        self, binds: Mapping[str, Bind], inputs: Inputs, moved: int, rounds: int
    ) -> list[Timing]:
        calls = {name: bind(inputs) for name, bind in binds.items()}
        other_load = OtherLoad()
        samples = timing.interleaved(calls, rounds)
        return [Timing("warm", "loop", samples, other_load.cores())]


def device_samples(
    runs: Mapping[str, Run],
    before: Callable[[Run], object],
    calls: int,
    rounds: int,
    event: Callable[[], Any],
    wait: Callable[[], object],
) -> Samples:
    """Return seconds per call of each run of `calls` interleaved calls, between device events.

    `before` is not timed: it keeps the device busy while the host enqueues the timed calls.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        spans = {}
        for name, run in runs.items():
            before(run)
            spans[name] = event(), event()
            spans[name][0].record()
            run()
            spans[name][1].record()
        wait()
        for name, (begin, end) in spans.items():
            seconds[name].append(begin.elapsed_time(end) / 1e3 / calls)
    return Samples(seconds)


class DeviceClock:
    """Timer between device events, with enough calls to fill a sample.

    Cold calls cycle through their inputs: several sets if necessary, each in separate memory, after
    other memory was written. Flushing by writing leaves the cache full of lines that are written
    back during the sample, which offsets the sample's own lines that are written back after it;
    flushing by reading would not count those.
    """

    def __init__(
        self,
        cache_bytes: int,
        flush: Run,
        capture: Callable[[Run], Run],
        event: Callable[[], Any],
        wait: Callable[[], object],
    ) -> None:
        self._cache_bytes, self._flush, self._capture = cache_bytes, flush, capture
        self._event, self._wait = event, wait

    @classmethod
    def of_cuda(cls) -> DeviceClock:
        cache_bytes = torch.cuda.get_device_properties().L2_cache_size
        other = torch.empty((CACHES_TO_FLUSH + 1) * cache_bytes, dtype=torch.uint8, device="cuda")

        def event() -> torch.cuda.Event:
            return torch.cuda.Event(enable_timing=True)

        return cls(cache_bytes, other.zero_, captured, event, torch.cuda.synchronize)

    def copy_bandwidth(self, size: int = 2**30, rounds: int = 301) -> float:
        """Return bytes per second, read and written, of torch's own copy between two buffers.

        It runs first, and for many rounds: an idle GPU takes a while to raise its clocks.
        """
        source = torch.ones(size, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)
        runs = {"copy": lambda: target.copy_(source)}
        samples = device_samples(runs, _once, 1, rounds, self._event, self._wait)
        return 2 * size / samples.median("copy")

    def timings(
        self, binds: Mapping[str, Bind], inputs: Inputs, moved: int, rounds: int
    ) -> list[Timing]:
        calls = min(max(SAMPLE_BYTES // moved, FEWEST_CALLS), MOST_CALLS)
        to_flush = math.ceil(CACHES_TO_FLUSH * self._cache_bytes / size(inputs))
        sets = [inputs, *(copied(inputs) for _ in range(1, min(to_flush, calls)))]
        made = [self._timing("cold", binds, sets, calls, moved, rounds)]
        if len(sets) > 1:
            made.append(self._timing("warm", binds, sets[:1], calls, moved, rounds))
        return made

    def _timing(
        self,
        cache: str,
        binds: Mapping[str, Bind],
        sets: list[Inputs],
        calls: int,
        moved: int,
        rounds: int,
    ) -> Timing:
        graphed = moved < GRAPH_BELOW
        runs = {name: cycling([bind(each) for each in sets], calls) for name, bind in binds.items()}
        if graphed:
            runs = {name: self._capture(run) for name, run in runs.items()}
        before = _once if cache == "warm" else lambda run: self._flush()
        samples = device_samples(runs, before, calls, rounds, self._event, self._wait)
        return Timing(cache, "graph" if graphed else "stream", samples)


def cycling(bound: list[Call], calls: int) -> Run:
    """Return a function that makes `calls` calls, cycling through the bound calls.

    As many of the latest results are kept alive as there are sets of inputs: results that reuse
    the previous call's memory would stay in the cache and never be written back.
    """

    def run() -> None:
        kept: deque[object] = deque(maxlen=len(bound))
        for n in range(calls):
            kept.append(bound[n % len(bound)]())

    return run


def captured(run: Run) -> Run:
    """Return a function that replays a CUDA graph of `run`, which is launched once beforehand."""
    run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def replay(memory: Run = run) -> None:  # the graph reads inputs that `run` keeps alive
        graph.replay()

    return replay


def _once(run: Run) -> None:
    run()
