"""Mistakes in a kernel are seen: what the other tests of this folder rely on."""

import re

import pytest
import torch
from built_wheel import BuiltOnce
from kernels import Emulator, Fault, shared_emulator

from faststeer.ops import reference

FAULTS = {
    "no_barrier": "race: the results depend on the order of threads",
    "no_barrier_before_reuse": "race: the results depend on the order of threads",
    "neighbours_in_a_warp": "race: the results depend on the order of threads",
    "blocks_that_write_the_same": "race: the results depend on the order of threads",
    "half_reach_a_barrier": r"thread 0 waits at the barrier of faulty\.cu:\d+, and thread 32 has "
    "returned",
    "one_has_returned": r"thread 0 has returned, and thread 1 waits at the barrier of faulty\.cu",
    "two_barriers": r"thread 0 waits at the barrier of faulty\.cu:\d+, and thread 32 waits at the",
    "half_reach_a_shuffle": r"thread 0 waits at the shuffle of .*, and thread 1 has returned",
    "some_vote_while_others_wait": r"thread 1 waits at the shuffle of .*, and thread 0 waits at "
    "the barrier",
    "from_a_lane_outside_the_mask": "for a lane that its mask leaves out",
    "beyond_shared_memory": "AddressSanitizer: use-after-poison",
    "beyond_fixed_shared_memory": "runtime error: index 64 out of bounds",
    "beyond_the_buffer": "AddressSanitizer: heap-buffer-overflow",
    "unaligned_access": "runtime error: .* misaligned address",
    # Launched so that they may start before the kernel in front of them is done.
    "reads_before_it_waits": "AddressSanitizer: use-after-poison",
    "writes_before_it_waits": "AddressSanitizer: use-after-poison",
    "half_of_it_waits": "thread 0 waits for the previous kernel, and thread 32 waits at",
    "never_waits": "the kernel ended without waiting for the previous one",
}


@pytest.fixture(scope="module")
def emulator(built_once: BuiltOnce) -> Emulator:
    return shared_emulator(built_once)


def test_a_kernel_without_a_mistake_passes(emulator: Emulator) -> None:
    memory = torch.zeros(64)
    (started,) = emulator.faulty("nothing_wrong", memory)
    assert memory.tolist() == list(range(63, -1, -1))
    assert (started.blocks, started.threads, started.shared_bytes) == (2, 64, 256)
    assert started.kernel.startswith("faulty::nothing_wrong(")


def test_a_kernel_that_waits_for_the_previous_one_passes(emulator: Emulator) -> None:
    memory = torch.zeros(64)
    emulator.faulty("waits", memory)
    assert memory.tolist() == 64 * [1.0]


@pytest.mark.parametrize(("fault", "report"), FAULTS.items(), ids=FAULTS)
def test_a_mistake_ends_in_a_report(emulator: Emulator, fault: str, report: str) -> None:
    with pytest.raises(Fault, match=report):
        emulator.faulty(fault, torch.zeros(64))


def test_shared_memory_that_was_never_written_is_nan(emulator: Emulator) -> None:
    memory = torch.zeros(64)
    emulator.faulty("shared_memory_never_written", memory)
    assert memory.isnan().all()


# Rows of several warps, so that each barrier has something to keep apart; where the launch gives a
# block several rows, a barrier of a later row too.
@pytest.mark.parametrize(
    ("kernel", "hidden", "tokens", "barriers"),
    [("general", 111, 2, 1), ("single", 512, 2, 1), ("direct", 512, 2, 1), ("kept", 512, 24, 3)],
)
def test_no_barrier_of_steer_norm_can_be_left_out(
    emulator: Emulator, kernel: str, hidden: int, tokens: int, barriers: int
) -> None:
    x, residual = torch.randn(2, tokens, hidden)
    entries = 1 if kernel == "single" else 3
    vectors = torch.randn(1 if kernel == "single" else 4, hidden)
    index = torch.arange(entries, dtype=torch.int32)[None]
    coefficient = torch.randn(1, entries)

    def run(dropped: int) -> torch.Tensor:
        h, out = torch.full((2, tokens, hidden), torch.nan)
        operands = (x, residual, torch.ones(hidden), 1e-5, vectors, index, coefficient, out, h)
        (started,) = emulator.steer_norm(*operands, multiprocessors=1, dropped_barrier=dropped)
        name = "general" if kernel == "general" else "packed"
        assert f"steer_norm_{name}" in started.kernel
        if kernel == "kept":
            assert started.shared_bytes > 0
        assert tokens // started.blocks == barriers
        return out

    h = reference.steer_add(x, residual, vectors, index, coefficient)
    exact = reference.rms_norm(h, torch.ones(hidden), 1e-5)
    torch.testing.assert_close(run(barriers), exact)  # there is no barrier of this number
    for dropped in range(barriers):
        with pytest.raises(Fault, match="race: the results depend on the order of threads"):
            run(dropped)


# The first two barriers of the tile pass are of the list of a group's rows. What a kernel does with
# a list that is not complete depends on luck: a sanitizer may see it first. The merge has two
# barriers for 32 splits, and 33 splits take a second round.
@pytest.mark.parametrize(
    ("kernel", "grouped", "rows", "barriers"),
    [(0, False, 400, 1), (0, True, 400, 3), (1, True, 400, 2), (1, False, 32 * 1024 + 1, 4)],
)
def test_no_barrier_of_moments_can_be_left_out(
    emulator: Emulator, kernel: int, grouped: bool, rows: int, barriers: int
) -> None:
    x = torch.randn(rows, 7)
    group = torch.randint(-1, 2, (rows,), dtype=torch.int32) if grouped else None

    def run(dropped: int) -> torch.Tensor:
        count, mean, m2 = torch.zeros(2).long(), *torch.zeros(2, 2, 7, dtype=torch.float64)
        emulator.moments(x, group, count, mean, m2, dropped_barrier=dropped, of_kernel=kernel)
        return mean[0]

    chosen = x if group is None else x[group == 0]
    torch.testing.assert_close(run(barriers), chosen.double().mean(0))
    for dropped in range(barriers):
        with pytest.raises(Fault) as caught:
            run(dropped)
        assert re.search(r"race: |AddressSanitizer: |runtime error: ", str(caught.value))
