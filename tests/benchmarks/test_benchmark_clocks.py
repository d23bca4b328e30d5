"""Device timings, with a device that is a counter: no test here needs a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from itertools import groupby

import pytest
import torch
from cases import Case, Dtype, Op, Steering, random_inputs, size
from clocks import GRAPH_BELOW, MOST_CALLS, DeviceClock, cycling, device_samples

NORM, BF16 = Op.steer_add_rms_norm, Dtype.bfloat16


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device

    def record(self) -> None:
        self.at = self.device.now

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


class Device:
    """Counter of seconds that records what ran, and in which memory."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str | int] = []
        self.captured = 0

    def work(self, name: str | int, seconds: float) -> None:
        self.ran.append(name)
        self.now += seconds

    def flush(self) -> None:
        self.work("flush", 1e-3)

    def capture(self, run: Callable[[], object]) -> Callable[[], object]:
        self.captured += 1
        return run

    def clock(self, cache_bytes: int) -> DeviceClock:
        return DeviceClock(cache_bytes, self.flush, self.capture, lambda: Event(self), lambda: None)

    def bind(self, inputs: Steering) -> Callable[[], object]:
        return lambda: self.work(inputs.x.data_ptr(), 2e-6)


def small_inputs() -> Steering:
    return random_inputs(Case(NORM, BF16, 4, 64))


def test_variants_are_interleaved_and_work_that_keeps_the_device_busy_is_not_timed() -> None:
    device = Device()
    runs = {
        "slow": lambda: device.work("slow", 30e-6),
        "fast": lambda: device.work("fast", 10e-6),
    }
    samples = device_samples(
        runs, lambda run: device.flush(), 10, 2, lambda: Event(device), lambda: None
    )
    assert device.ran == ["flush", "slow", "flush", "fast"] * 2
    assert samples.median("slow") == pytest.approx(3e-6)
    assert samples.speedup("fast", over="slow") == pytest.approx(3.0)


def test_cold_calls_read_other_memory_each_time_after_a_flush() -> None:
    device, inputs = Device(), small_inputs()
    cold, _ = device.clock(cache_bytes=10**9).timings({"a": device.bind}, inputs, 2048, rounds=1)
    of_cold = device.ran[: MOST_CALLS + 1]
    assert of_cold[0] == "flush"
    assert len(set(of_cold[1:])) == MOST_CALLS
    assert (cold.cache, cold.clock) == ("cold", "graph")
    assert cold.samples.median("a") == pytest.approx(2e-6)


def test_cold_calls_need_at_most_three_times_the_memory_of_the_cache() -> None:
    device, inputs = Device(), small_inputs()
    device.clock(cache_bytes=2 * size(inputs)).timings({"a": device.bind}, inputs, 2048, rounds=1)
    of_cold = device.ran[1 : MOST_CALLS + 1]
    assert len(set(of_cold)) == 6
    assert of_cold == (of_cold[:6] * MOST_CALLS)[:MOST_CALLS]


def test_warm_calls_read_the_same_memory_after_an_untimed_sample_of_it() -> None:
    device, inputs = Device(), small_inputs()
    _, warm = device.clock(cache_bytes=10**9).timings({"a": device.bind}, inputs, 2048, rounds=1)
    of_warm = device.ran[MOST_CALLS + 1 :]
    assert of_warm == [inputs.x.data_ptr()] * 2 * MOST_CALLS
    assert (warm.cache, warm.samples.median("a")) == ("warm", pytest.approx(2e-6))


def test_inputs_that_never_fit_the_cache_are_only_cold() -> None:
    device, inputs = Device(), small_inputs()
    timings = device.clock(cache_bytes=size(inputs) // 3).timings(
        {"a": device.bind}, inputs, 2048, rounds=1
    )
    assert [timing.cache for timing in timings] == ["cold"]


@pytest.mark.parametrize(
    ("moved", "clock", "captured"), [(GRAPH_BELOW - 1, "graph", 4), (GRAPH_BELOW, "stream", 0)]
)
def test_calls_too_short_to_launch_in_time_are_replayed_from_a_graph(
    moved: int, clock: str, captured: int
) -> None:
    device = Device()
    binds = {"a": device.bind, "b": device.bind}
    timings = device.clock(cache_bytes=10**9).timings(binds, small_inputs(), moved, rounds=1)
    assert {timing.clock for timing in timings} == {clock}
    assert device.captured == captured


def test_a_sample_has_at_least_four_calls_and_enough_to_hide_a_launch() -> None:
    for moved, calls in ((2**26, 24), (2**28, 6), (2**30, 4), (40_960, 128)):
        device = Device()
        device.clock(cache_bytes=1).timings({"a": device.bind}, small_inputs(), moved, rounds=1)
        lengths = [len(list(run)) for name, run in groupby(device.ran) if name != "flush"]
        assert lengths == [calls]


def test_results_are_kept_for_one_cycle_through_the_inputs() -> None:
    alive: list[int] = []
    made: list[weakref.ref[torch.Tensor]] = []

    def call() -> torch.Tensor:
        alive.append(sum(each() is not None for each in made))
        result = torch.ones(1)
        made.append(weakref.ref(result))
        return result

    cycling([call, call, call], calls=7)()
    assert alive == [0, 1, 2, 3, 3, 3, 3]
