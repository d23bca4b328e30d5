"""The CUDA kernels of accumulate_moments keep the bounds that the CPU's keep."""

from __future__ import annotations

import pytest
import torch
from built_wheel import BuiltOnce
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import DTYPES, SCRATCH_BYTES, Emulator, Started, shared_emulator
from layouts import ALIGNED, LAYOUTS, laid_out, storage_of
from moments_state import Batch, State, check, empty, exact, random_groups, random_rows
from torch import Tensor

NAMES = {torch.float32: "float", torch.bfloat16: "__nv_bfloat16", torch.float16: "__half"}


@pytest.fixture(scope="module")
def emulator(built_once: BuiltOnce) -> Emulator:
    return shared_emulator(built_once)


def accumulate(
    emulator: Emulator, batch: Batch, state: State | None = None
) -> tuple[State, list[Started]]:
    """Add a batch to a new state or to `state`."""
    if state is None:
        state = empty(batch.groups, batch.x.shape[-1])
    return state, emulator.moments(batch.x, batch.group, *state)


@st.composite
def batches(draw: st.DrawFn) -> list[Batch]:
    """Of one state: hidden size, groups and dtype are common to them."""
    hidden = draw(st.sampled_from((1, 7, 64, 111, 264)))
    dtype, groups = draw(st.sampled_from(DTYPES)), draw(st.integers(1, 4))
    made = []
    for _ in range(draw(st.integers(1, 3))):
        seed = draw(st.integers(0, 2**31))
        rows = draw(st.integers(0, 40) | st.integers(0, 400) | st.integers(1, 2500))
        x = random_rows(rows, hidden, torch.float32, seed, draw(st.sampled_from((0, 3, 1000))))
        if rows > 0 and draw(st.booleans()):
            x[draw(st.integers(0, rows - 1))] *= 1000
        x = laid_out(x.clamp(-6e4, 6e4).to(dtype), draw(st.sampled_from(LAYOUTS)))
        one = groups == 1 and draw(st.booleans())
        made.append(Batch(x, None if one else random_groups(rows, groups, seed), groups))
    return made


@settings(max_examples=80, deadline=None)
@given(batches())
def test_moments_are_those_of_float64(emulator: Emulator, calls: list[Batch]) -> None:
    state = empty(calls[0].groups, calls[0].x.shape[-1])
    for batch in calls:
        before = storage_of(batch.x).clone()
        accumulate(emulator, batch, state)
        assert torch.equal(storage_of(batch.x), before)
    groups = [torch.zeros(len(b.x)).int() if b.group is None else b.group for b in calls]
    together = Batch(torch.cat([b.x for b in calls]), torch.cat(groups), calls[0].groups)
    check(state, exact(*together), roundings=len(calls))


@pytest.mark.parametrize("rows", [1, 2, 3, 31, 33, 1000, 2500])
def test_a_mean_of_a_million_costs_a_deviation_of_one_nothing(
    emulator: Emulator, rows: int
) -> None:
    batch = Batch(random_rows(rows, 9, torch.float32, mean=1e6), None, 1)
    check(accumulate(emulator, batch)[0], exact(*batch))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("times", [1000, 60000])
@pytest.mark.parametrize("rows", [5, 64, 1024, 2500])
def test_an_outlier_in_the_first_row_costs_the_others_nothing(
    emulator: Emulator, dtype: torch.dtype, times: int, rows: int
) -> None:
    x = random_rows(rows, 70, torch.float32, mean=3.0)
    x[0] = times + x[0]
    batch = Batch(x.to(dtype), None, 1)
    found, expected = accumulate(emulator, batch)[0], exact(*batch)
    check(found, expected)
    # The deviation is the outlier's: it would hide an error as large as all other rows.
    assert ((found.mean - expected.mean).abs() <= 1e-6 * expected.mean.abs()).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100, 2500])
def test_a_constant_column_has_exactly_its_mean_and_no_variance(
    emulator: Emulator, rows: int
) -> None:
    special = torch.tensor([0.0, 0.1, -1e6, 1e-40, 3e38])
    constants = torch.cat([special, 100 * random_rows(1, 60, torch.float32)[0]])
    batch = Batch(constants.expand(rows, -1).contiguous(), None, 1)
    state, _ = accumulate(emulator, batch)
    accumulate(emulator, batch, state)
    assert state.count.tolist() == [2 * rows]
    assert torch.equal(state.mean[0], constants.double())
    assert torch.equal(state.m2, torch.zeros_like(state.m2))


# Nearly 33,000 rows make splits as long as there are, of four runs a lane, and a short one.
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_splits_cost_no_digits_and_count_every_row(
    emulator: Emulator, dtype: torch.dtype
) -> None:
    n = torch.arange(32 * 1024 + 5)
    decay = torch.exp(-n / 100)
    spikes = torch.where(n % 256 == 0, 6e4, 1.0)
    x = torch.stack([decay, spikes, random_rows(len(n), 1, torch.float32)[:, 0]], dim=1)
    group = random_groups(len(n), 2)
    group[:1024] = 0  # one split of one group alone
    for batch in (Batch(x.to(dtype), None, 1), Batch(x.to(dtype), group, 2)):
        check(accumulate(emulator, batch)[0], exact(*batch))


def test_short_runs_around_a_median_keep_a_digit_more(emulator: Emulator) -> None:
    """One long run would have the first column 2e-7 off, a base at a spike the second."""
    n = torch.arange(32 * 1024)
    x = torch.stack([torch.exp(-n / 100), torch.where(n % 256 == 0, 1e8, 1.0)], dim=1)
    batch = Batch(x, None, 1)
    found, expected = accumulate(emulator, batch)[0], exact(*batch)
    assert ((found.mean - expected.mean).abs() <= 5e-8 * expected.mean).all()
    assert ((found.m2 - expected.m2).abs() <= 5e-8 * expected.m2).all()


@pytest.mark.parametrize(("rows", "groups", "steps"), [(400, 5, 5), (32 * 1024 + 5, 2, 4)])
def test_steps_that_keep_scratch_small_change_no_bit(
    emulator: Emulator, rows: int, groups: int, steps: int
) -> None:
    """The least that a step takes are 32 splits of one group; 33 splits take two steps."""
    held = random_rows(50, 7, torch.float32, seed=1), random_groups(50, groups, seed=1)
    x, group = random_rows(rows, 7, torch.float32, mean=2.0), random_groups(rows, groups)
    group[group == 3] = -1  # one group adds nothing
    states = []
    for scratch_bytes, expected in ((SCRATCH_BYTES, 1), (0, steps)):
        state = empty(groups, 7)
        emulator.moments(*held, *state)
        started = emulator.moments(x, group, *state, scratch_bytes=scratch_bytes)
        names = ["moments_of_splits", "merge_moments"] * expected
        assert len(started) == len(names)
        assert all(name in one.kernel for name, one in zip(names, started, strict=True))
        states.append(state)
    assert all(map(torch.equal, *states))
    check(states[0], exact(torch.cat([held[0], x]), torch.cat([held[1], group]), groups), 2)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_stay_in_their_column_and_group(emulator: Emulator, value: float) -> None:
    x, group = random_rows(300, 9, torch.float32), random_groups(300, 3)
    clean, _ = accumulate(emulator, Batch(x, group, 3))
    row = int((group == 1).nonzero()[20])
    x[row, 4] = value
    x[group == -1] = value  # of rows that are skipped nothing is read
    spoiled, _ = accumulate(emulator, Batch(x, group, 3))
    for clean_values, values in zip(clean[1:], spoiled[1:], strict=True):
        assert not values[1, 4].isfinite()
        values[1, 4] = clean_values[1, 4]
        assert torch.equal(values, clean_values)


@pytest.mark.parametrize("dtype", DTYPES, ids=NAMES.get)
def test_packs_and_single_elements_give_the_same_bits(
    emulator: Emulator, dtype: torch.dtype
) -> None:
    values, group = random_rows(300, 520, dtype), random_groups(300, 2)
    results = []
    for layouts, packed in ((ALIGNED, "true"), (((1, 0), (0, 1)), "false")):
        for layout in layouts:
            state, started = accumulate(emulator, Batch(laid_out(values, layout), group, 2))
            assert f"moments_of_splits<{NAMES[dtype]}, {packed}>(" in started[0].kernel
            assert "merge_moments(" in started[1].kernel
            results.append(state)
    for state in results[1:]:
        assert all(map(torch.equal, state, results[0]))


def test_groups_without_rows_keep_what_they_hold_and_empty_ones_start_from_zero(
    emulator: Emulator,
) -> None:
    state = empty(4, 9)
    state.count[0] = 7
    for tensor in (state.mean, state.m2):
        tensor[:] = torch.nan  # of the others nothing may be read either, as their count is 0
    held: list[Tensor] = [tensor.clone() for tensor in state]
    x = random_rows(50, 9, torch.float32)
    group = torch.tensor([2, -1, 2, 4, -2]).int().repeat(10)  # there is no group 4, and no -2
    accumulate(emulator, Batch(x, group, 4), state)
    for tensor, before in zip(state, held, strict=True):
        for g in (0, 1, 3):
            assert torch.equal(tensor[g].nan_to_num(99.0), before[g].nan_to_num(99.0))
    expected = exact(x, group, 4)
    check(State(*(t[2:3] for t in state)), State(*(t[2:3] for t in expected)))
