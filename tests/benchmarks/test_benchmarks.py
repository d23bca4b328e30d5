"""The benchmarks take and report timings as documented."""

from __future__ import annotations

import platform
from itertools import groupby
from pathlib import Path

import pytest
import torch
from cases import Case, Dtype, Entries, Op, bytes_moved, random_inputs

from faststeer.diagnostics.bench.timing import Samples, interleaved
from faststeer.utils.machine import gpu_facts, machine_facts, source_commit

NORM, ADD, MOMENTS = Op.steer_add_rms_norm, Op.steer_add, Op.accumulate_moments
BF16, F32 = Dtype.bfloat16, Dtype.float32


class Machine:
    """A simulated clock, and functions that take a given time on it."""

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
    ("case", "expected"),
    [
        # 32 KiB per row and the 8 KiB weight.
        pytest.param(Case(NORM, BF16, 1, 4096), 40_960, id="idle"),
        # 32 KiB, weight, four vectors of 8 KiB, four entries of 8 bytes.
        pytest.param(Case(NORM, BF16, 1, 4096, 4, Entries.per_row), 73_760, id="one row"),
        # 16 MiB, weight, four vectors, 512 rows of 32 bytes.
        pytest.param(Case(NORM, BF16, 512, 4096, 4, Entries.per_row), 16_834_560, id="per row"),
        # 16 MiB, weight, four vectors, 32 bytes.
        pytest.param(Case(NORM, BF16, 512, 4096, 4, Entries.shared), 16_818_208, id="shared"),
        # 256 KiB, weight, one float32 vector of 16 KiB, one entry.
        pytest.param(Case(NORM, BF16, 8, 4096, 1, Entries.shared, F32), 286_728, id="pre-summed"),
        # 2 MiB, weight, eight float32 vectors of 16 KiB, one entry for each sequence.
        pytest.param(
            Case(NORM, BF16, 64, 4096, 1, Entries.per_sequence, F32), 2_236_480, id="sequences"
        ),
        # 64 KiB per row and the 16 KiB weight.
        pytest.param(Case(NORM, F32, 1, 4096), 81_920, id="idle in float32"),
        # 24 KiB per row, no weight, four vectors, 512 rows of 32 bytes.
        pytest.param(Case(ADD, BF16, 512, 4096, 4, Entries.per_row), 12_632_064, id="add"),
        # 64 MiB, and a state of 65,544 bytes read and written.
        pytest.param(Case(MOMENTS, BF16, 8192, 4096), 67_239_952, id="moments"),
        # 1 MiB, 64 group numbers of 4 bytes, two states of 65,544 bytes read and written.
        pytest.param(Case(MOMENTS, F32, 64, 4096, groups=2), 1_311_008, id="moments of groups"),
    ],
)
def test_bytes_moved_by_hand(case: Case, expected: int) -> None:
    assert bytes_moved(case) == expected


@pytest.mark.parametrize("entries", [Entries.shared, Entries.per_row])
def test_every_row_reads_every_vector(entries: Entries) -> None:
    case = Case(NORM, BF16, 6, 64, 4, entries)
    inputs = random_inputs(case)
    assert len(inputs.index) == {Entries.shared: 1, Entries.per_row: 6}[entries]
    assert inputs.index.sort(1).values.tolist() == [[0, 1, 2, 3]] * len(inputs.index)


def test_every_sequence_reads_a_vector_of_its_own() -> None:
    inputs = random_inputs(Case(NORM, BF16, 64, 128, 1, Entries.per_sequence, F32))
    assert inputs.index.flatten().tolist() == list(range(8))
    assert inputs.vectors.shape == (8, 128)
    assert inputs.vectors.dtype == torch.float32


def test_variants_are_interleaved_in_the_order_given() -> None:
    machine = Machine()
    variants = {name: machine.call(name, 0.5) for name in ("a", "b", "c")}
    interleaved(variants, rounds=4, sample_seconds=0.25, clock=machine.clock)
    order = [name for name, _ in groupby(machine.calls)]
    assert order == ["a", "b", "c"] * 5  # the first round is the warm-up


def test_a_sample_has_three_calls_of_a_slow_function_and_fills_up_with_a_fast_one() -> None:
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


def test_a_median_is_of_seconds_per_call() -> None:
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


def test_the_facts_of_a_machine_contain_no_path_and_no_host_name() -> None:
    facts = {str(fact) for fact in machine_facts().values()}
    assert platform.node() not in facts
    assert not any(fact.startswith("/") for fact in facts)


def test_outside_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert source_commit(tmp_path) is None


def test_the_facts_of_a_gpu_are_its_name_driver_and_cuda(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 580.159.04\necho 580.159.04\n")  # a line for each GPU
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    facts = gpu_facts()
    assert facts == {"gpu": "NVIDIA H100 80GB HBM3", "driver": "580.159.04", "cuda": "13.0"}
    monkeypatch.setenv("PATH", "")
    assert gpu_facts()["driver"] is None
