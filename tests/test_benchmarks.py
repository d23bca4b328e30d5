from __future__ import annotations

import platform
import runpy
from itertools import groupby
from pathlib import Path

import pytest

from faststeer.timing import Samples, interleaved, machine_facts, source_commit

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
bytes_moved = runpy.run_path(str(BENCHMARKS / "ops.py"))["bytes_moved"]


class Machine:
    """A clock, and functions that take as long on it as they are told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def clock(self) -> float:
        return self.now

    def call(self, name: str, *durations: float):
        left = iter(durations)
        last = durations[-1]

        def run() -> None:
            self.calls.append(name)
            self.now += next(left, last)

        return run


@pytest.mark.parametrize(
    ("rows", "vectors", "shared", "vector_element_size", "expected"),
    [
        # 32 KiB a row and the 8 KiB weight.
        pytest.param(1, 0, True, 2, 40_960, id="idle"),
        # 32 KiB, weight, four vectors of 8 KiB, four entries of 8 bytes.
        pytest.param(1, 4, False, 2, 73_760, id="one row"),
        # 16 MiB, weight, four vectors, 512 rows of 32 bytes.
        pytest.param(512, 4, False, 2, 16_834_560, id="each row its own entries"),
        # 16 MiB, weight, four vectors, 32 bytes.
        pytest.param(512, 4, True, 2, 16_818_208, id="entries shared"),
        # 256 KiB, weight, one float32 vector of 16 KiB, one entry.
        pytest.param(8, 1, True, 4, 286_728, id="summed beforehand"),
    ],
)
def test_bytes_moved_at_hidden_4096_in_bfloat16(
    rows: int, vectors: int, shared: bool, vector_element_size: int, expected: int
) -> None:
    moved = bytes_moved(
        *(rows, 4096, 2), vectors=vectors, shared=shared, vector_element_size=vector_element_size
    )
    assert moved == expected


def test_variants_take_turns_in_the_order_given() -> None:
    machine = Machine()
    variants = {name: machine.call(name, 0.5) for name in ("a", "b", "c")}
    interleaved(variants, rounds=4, sample_seconds=0.25, clock=machine.clock)
    turns = [name for name, _ in groupby(machine.calls)]
    assert turns == ["a", "b", "c"] * 5  # the first turn is the warm-up


def test_a_slow_function_is_called_three_times_a_sample_and_a_fast_one_until_it_is_full() -> None:
    machine = Machine()
    variants = {"slow": machine.call("slow", 0.5), "fast": machine.call("fast", 2.0**-5)}
    interleaved(variants, rounds=1, sample_seconds=0.25, clock=machine.clock)
    lengths = [len(list(run)) for _, run in groupby(machine.calls)]
    assert lengths[2:] == [3, 12]  # 3 and 6 fast calls fall short of a quarter of a second


def test_a_slow_first_call_does_not_shorten_the_samples() -> None:
    machine = Machine()
    variants = {"compiled": machine.call("compiled", 8.0, 2.0**-5)}
    samples = interleaved(variants, rounds=2, sample_seconds=0.25, clock=machine.clock)
    assert samples.seconds == {"compiled": [2.0**-5] * 2}
    assert len(machine.calls) == 1 + (3 + 6 + 12) + 2 * 12


def test_a_median_is_that_of_the_seconds_a_call() -> None:
    machine = Machine()
    warm_up = [0.5] * 4
    rounds = [1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 9.0, 9.0, 9.0]
    variants = {"a": machine.call("a", *warm_up, *rounds)}
    samples = interleaved(variants, rounds=3, sample_seconds=0.25, clock=machine.clock)
    assert samples.seconds["a"] == [1.0, 2.0, 9.0]
    assert samples.median("a") == 2.0


def test_a_speedup_is_the_median_of_the_ratios_within_rounds() -> None:
    samples = Samples({"ours": [1.0, 10.0, 4.0], "theirs": [3.0, 20.0, 20.0]})
    assert samples.speedup("ours", over="theirs") == 3.0  # the ratio of the medians is 5


def test_the_facts_of_a_machine_hold_no_path_and_no_host_name() -> None:
    facts = {str(fact) for fact in machine_facts().values()}
    assert platform.node() not in facts
    assert not any(fact.startswith("/") for fact in facts)


def test_outside_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert source_commit(tmp_path) is None
