"""How calls are spread over a GPU: facts of the planner that need none."""

from __future__ import annotations

import pytest
import torch
from built_wheel import BuiltOnce
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import DTYPES, H100, SCRATCH_BYTES, Emulator, shared_emulator

NONE, SINGLE, DIRECT, KEPT, MODES = range(5)
PROBLEMS = st.fixed_dictionaries(
    {
        "tokens": st.one_of(st.integers(1, 5000), st.integers(1, 2**40)),
        "hidden": st.one_of(st.integers(1, 40000), st.sampled_from((576, 4096, 11008, 16384))),
        "element_size": st.sampled_from((2, 4)),
        "entries": st.one_of(st.integers(0, 2), st.integers(0, 100)),
        "stored": st.integers(1, 3),
        "tokens_per_setting": st.one_of(st.just(1), st.integers(1, 4096)),
        "modes": st.booleans(),
        "aligned": st.booleans(),
        "multiprocessors": st.integers(1, 200),
        "resident_threads": st.sampled_from((1024, 1536, 2048)),
        "resident_shared_bytes": st.sampled_from((64 << 10, 100 << 10, 228 << 10)),
    }
)


@pytest.fixture(scope="module")
def emulator(built_once: BuiltOnce) -> Emulator:
    return shared_emulator(built_once)


@settings(max_examples=1000, deadline=None)
@given(PROBLEMS)
def test_a_launch_covers_each_row_once_within_a_gpus_limits(
    emulator: Emulator, problem: dict[str, int]
) -> None:
    plan = emulator.plan_steer_norm(**problem)
    assert plan.threads % 32 == 0
    assert 32 <= plan.threads <= 1024
    assert (plan.blocks - 1) * plan.rows_a_block < problem["tokens"]
    assert problem["tokens"] <= plan.blocks * plan.rows_a_block
    width = 16 // problem["element_size"]
    if not problem["aligned"]:
        assert not plan.packed
    if not plan.packed:
        assert plan.rows_a_block == 1
        with_modes = problem["modes"] and problem["entries"] > 0
        assert plan.steering == (MODES if with_modes else NONE)
        assert plan.shared_bytes == (4 * problem["hidden"] if with_modes else 0)  # a float32 row
        return
    assert plan.packs in (1, 2)
    assert problem["hidden"] <= plan.threads * plan.packs * width
    assert (plan.threads - 32) * width < problem["hidden"]  # every warp has something to load
    if plan.steering == KEPT:
        assert plan.shared_bytes == plan.threads * plan.packs * width * 4  # float32 sums
        # A block has 48 KiB, and those of two sums over it are taken.
        assert plan.shared_bytes <= 48 * 1024 - 2 * 32 * 4
    else:
        assert plan.shared_bytes == 0
        assert plan.rows_a_block == 1


@settings(max_examples=300, deadline=None)
@given(PROBLEMS)
def test_the_steering_is_read_in_the_cheapest_way_that_fits(
    emulator: Emulator, problem: dict[str, int]
) -> None:
    plan = emulator.plan_steer_norm(**(problem | {"aligned": True}))
    if not plan.packed:
        return
    entries = problem["entries"]
    if entries == 0:
        assert plan.steering == NONE
    elif problem["modes"]:
        assert plan.steering == MODES
    elif entries == 1:
        assert plan.steering == (SINGLE if problem["stored"] == 1 else DIRECT)
    elif problem["tokens_per_setting"] == 1 or problem["tokens"] <= problem["multiprocessors"]:
        assert plan.steering == DIRECT
    else:
        assert plan.steering in (DIRECT, KEPT)


# A multiprocessor of an H100 has 65,536 registers and room for 2,048 threads; a row of 4096
# bfloat16 is 512 threads of one pack.
@pytest.mark.parametrize(
    ("entries", "stored", "rows"),
    [(0, 1, 4 * H100), (1, 1, 3 * H100), (1, 8, 2 * H100), (4, 8, 2 * H100)],
)
def test_rows_have_one_pack_per_thread_as_long_as_all_fit_at_once(
    emulator: Emulator, entries: int, stored: int, rows: int
) -> None:
    options = {"entries": entries, "stored": stored}
    assert emulator.plan_steer_norm(rows, 4096, **options).packs == 1
    assert emulator.plan_steer_norm(rows + 1, 4096, **options).packs == 2


def test_a_gpu_with_room_for_fewer_threads_takes_fewer_rows_at_once(emulator: Emulator) -> None:
    few = 1024 // 512 * 68  # of sm_75
    turing = {"multiprocessors": 68, "resident_threads": 1024, "resident_shared_bytes": 64 << 10}
    assert emulator.plan_steer_norm(few, 4096, **turing).packs == 1
    assert emulator.plan_steer_norm(few + 1, 4096, **turing).packs == 2
    # Four blocks with kept sums of 16 KiB fit by their threads, and three by their memory.
    shared = {"entries": 4, "stored": 8, "tokens_per_setting": 500}
    assert emulator.plan_steer_norm(500, 4096, **shared, **turing).rows_a_block == 3
    roomy = turing | {"resident_shared_bytes": 228 << 10}
    assert emulator.plan_steer_norm(500, 4096, **shared, **roomy).rows_a_block == 2


def test_the_last_wave_of_9000_rows_is_as_full_as_the_first(emulator: Emulator) -> None:
    plan = emulator.plan_steer_norm(9000, 4096, entries=4, stored=8, tokens_per_setting=9000)
    assert (plan.steering, plan.threads) == (KEPT, 256)
    assert (plan.rows_a_block, plan.blocks) == (9, 1000)  # of 2 x 528 places; 16 rows made 563


@settings(max_examples=500, deadline=None)
@given(
    tokens=st.integers(1, 100_000),
    packs=st.integers(1, 1024),
    element_size=st.sampled_from((2, 4)),
    multiprocessors=st.integers(1, 200),
)
def test_no_wave_of_blocks_with_kept_sums_is_nearly_empty(
    emulator: Emulator, tokens: int, packs: int, element_size: int, multiprocessors: int
) -> None:
    hidden = packs * 16 // element_size
    shared = {"entries": 2, "stored": 9, "tokens_per_setting": tokens}
    options = {"element_size": element_size, "multiprocessors": multiprocessors}
    plan = emulator.plan_steer_norm(tokens, hidden, **shared, **options)
    if plan.steering != KEPT:
        return
    registers = {1: 56, 2: 64}[plan.packs]
    resident = min(32, 2048 // plan.threads, 65536 // (registers * plan.threads))
    resident = min(resident, (228 << 10) // (plan.shared_bytes + 1280))
    places = multiprocessors * resident
    waves = -(-plan.blocks // places)
    assert 2 <= plan.rows_a_block <= 16
    assert plan.blocks * plan.rows_a_block >= waves * places * (plan.rows_a_block - 1)


def test_a_row_of_llama_is_in_registers_at_any_batch(emulator: Emulator) -> None:
    for hidden in (576, 2048, 4096, 5120, 8192):
        for tokens in (1, H100, 100_000):
            for size in (2, 4):
                assert emulator.plan_steer_norm(tokens, hidden, element_size=size).packed


@settings(max_examples=500, deadline=None)
@given(
    tokens=st.one_of(st.integers(1, 100_000), st.integers(1, 2**40)),
    hidden=st.integers(1, 20_000),
    groups=st.integers(1, 1000),
    offset=st.integers(0, 16),
    gap=st.integers(0, 16),
    dtype=st.sampled_from(DTYPES),
)
def test_moments_take_each_row_and_column_once(
    emulator: Emulator,
    tokens: int,
    hidden: int,
    groups: int,
    offset: int,
    gap: int,
    dtype: torch.dtype,
) -> None:
    size = dtype.itemsize
    address = 4096 + offset * size
    plan = emulator.plan_moments(tokens, hidden, groups, address, hidden + gap, dtype)
    assert 32 <= plan.rows_a_split <= 1024
    assert (plan.splits - 1) * plan.rows_a_split < tokens <= plan.splits * plan.rows_a_split
    assert plan.splits <= 2**31 - 1
    columns = 32 * 16 // size  # of a tile
    assert (plan.column_tiles - 1) * columns < hidden <= plan.column_tiles * columns
    partial = plan.splits_a_step * (2 * hidden + 1) + 1  # means, moments, a count a split; a count
    assert plan.scratch_doubles == plan.groups_a_step * partial
    whole = [address, hidden * size, (hidden + gap) * size]
    assert plan.packed == all(n % 16 == 0 for n in whole)
    # Where the rows lie changes how they are read, and no result.
    dense = emulator.plan_moments(tokens, hidden, groups, 4096, hidden, dtype)
    assert (dense.rows_a_split, dense.splits) == (plan.rows_a_split, plan.splits)


@settings(max_examples=500, deadline=None)
@given(
    tokens=st.one_of(st.integers(1, 100_000), st.integers(1, 2**40)),
    hidden=st.integers(1, 131_000),
    groups=st.one_of(st.integers(1, 1100), st.integers(1, 2**31)),
)
def test_scratch_of_moments_is_bounded_whatever_the_shape(
    emulator: Emulator, tokens: int, hidden: int, groups: int
) -> None:
    plan = emulator.plan_moments(tokens, hidden, groups, 4096, hidden, torch.bfloat16)
    assert 8 * plan.scratch_doubles <= SCRATCH_BYTES
    assert 1 <= plan.groups_a_step <= min(groups, 65_535)  # of a grid, along z
    # A step ends where a round of the merge does, so that its order stays the same.
    assert plan.splits_a_step == plan.splits or plan.splits_a_step % 32 == 0
    if plan.splits_a_step < plan.splits:
        more = 32 * (2 * hidden + 1)
    elif plan.groups_a_step < min(groups, 65_535):
        more = plan.splits * (2 * hidden + 1) + 1
    else:
        return
    assert 8 * (plan.scratch_doubles + more) > SCRATCH_BYTES  # no step could be larger


def test_a_thousand_groups_of_llamas_rows_take_64_mib_instead_of_2_gb(emulator: Emulator) -> None:
    plan = emulator.plan_moments(32_768, 4096, 1024, 4096, 4096, torch.bfloat16)
    assert plan.splits * 1024 * 4096 * 16 > 2e9
    assert 60 << 20 < 8 * plan.scratch_doubles <= 64 << 20
