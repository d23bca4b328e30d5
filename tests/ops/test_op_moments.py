"""Streaming moments are those of float64, for any shape, dtype, stride, group and order."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from moments_state import Batch, State, check, empty, exact, random_groups, random_rows
from op_arguments import LAYOUTS, spaced, surroundings

from faststeer import _C, ops
from faststeer.ops import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HIDDEN = (1, 7, 31, 32, 33, 111, 576, 4096, 11008)
ROWS = (0, 1, 2, 3, 5, 1023, 1024, 1025, 2500)
TILE = 1024  # calls with more rows are split


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    rows = draw(st.sampled_from(ROWS) | st.integers(0, 200))
    hidden = draw(st.sampled_from([h for h in HIDDEN if h * rows <= 2**20 or h == HIDDEN[0]]))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**31))
    x = random_rows(rows, hidden, torch.float32, seed, draw(st.sampled_from((0, 3, 1000))))
    x *= draw(st.sampled_from((1e-3, 1.0, 30.0)))
    if rows > 0 and draw(st.booleans()):
        x[draw(st.integers(0, rows - 1))] *= 1000
    x = x.clamp(-6e4, 6e4).to(dtype)
    if draw(st.booleans()):
        split = draw(st.sampled_from([a for a in (1, 2, 4, 5) if rows % a == 0]))
        x = x.view(split, rows // split, hidden)
    x = spaced(x, draw(LAYOUTS))
    groups = draw(st.integers(1, 6))
    if groups == 1 and draw(st.booleans()):
        return Batch(x, None, 1)
    group = random_groups(rows, groups, seed).view(x.shape[:-1])
    return Batch(x, group, groups)


@settings(max_examples=300, deadline=None)
@given(batches())
def test_moments_equal_those_of_float64(batch: Batch) -> None:
    before = batch.x.clone()
    check(batch.accumulated(), exact(*batch))
    assert torch.equal(batch.x, before)


@pytest.mark.parametrize(("rows", "hidden"), [(2500, 4096), (1025, 11008), (1023, 11008)])
def test_moments_of_many_wide_rows_equal_those_of_float64(rows: int, hidden: int) -> None:
    for dtype, groups in zip(DTYPES, (1, 2, 40), strict=True):
        x = random_rows(rows, hidden, dtype, mean=1.0)
        batch = Batch(x, random_groups(rows, groups), groups)
        check(batch.accumulated(), exact(*batch))


@pytest.mark.parametrize("rows", [2, 3, 40, 1024, 4096])
def test_a_mean_of_a_million_does_not_affect_a_deviation_of_one(rows: int) -> None:
    batch = Batch(random_rows(rows, 576, torch.float32, mean=1e6), None, 1)
    assert batch.x.std() < 2
    check(batch.accumulated(), exact(*batch))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("times", [1000, 60000])
@pytest.mark.parametrize("rows", [5, 64, 1024, 4096])
def test_an_outlier_in_the_first_row_does_not_affect_the_others(
    dtype: torch.dtype, times: int, rows: int
) -> None:
    x = random_rows(rows, 576, torch.float32, mean=3.0)
    x[0] = times + x[0]
    batch = Batch(x.to(dtype), None, 1)
    found, expected = batch.accumulated(), exact(*batch)
    check(found, expected)
    # The deviation is the outlier's: it would hide an error as large as all other rows.
    assert ((found.mean - expected.mean).abs() <= 1e-6 * expected.mean.abs()).all()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (torch.float32, (0.0, 0.1, -1e6, 1e-40, 3e38)),
        (torch.bfloat16, (0.0, 0.1, -1e6, 1e-40, 3e38)),
        (torch.float16, (0.0, 0.1, -6e-8, 65504.0)),
    ],
)
@pytest.mark.parametrize("rows", [1, 2, 3, 31, 1025, 2500])
def test_a_constant_column_has_exactly_its_mean_and_no_variance(
    dtype: torch.dtype, values: tuple[float, ...], rows: int
) -> None:
    x = torch.tensor(values).to(dtype).expand(rows, -1)
    state = Batch(x, None, 1).accumulated()
    ops.accumulate_moments(x[: rows // 2], None, *state)
    assert torch.equal(state.mean[0], x[0].double())
    assert torch.equal(state.m2, torch.zeros_like(state.m2))


@settings(max_examples=50, deadline=None)
@given(batches(), st.sampled_from((torch.nan, torch.inf, -torch.inf)), st.data())
def test_nan_and_infinity_stay_in_their_column_and_group(
    batch: Batch, value: float, data: st.DataObject
) -> None:
    rows = batch.x.numel() // batch.x.shape[-1]
    if rows == 0:
        return
    clean = batch.accumulated()
    x = batch.x.clone(memory_format=torch.contiguous_format)
    row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, x.shape[-1] - 1))
    x.view(rows, -1)[row, column] = value
    g = 0 if batch.group is None else int(batch.group.flatten()[row])
    spoiled = Batch(x, batch.group, batch.groups).accumulated()
    if g >= 0:
        assert not spoiled.mean[g, column].isfinite()
        assert not spoiled.m2[g, column].isfinite()
        for state in (clean, spoiled):
            state.mean[g, column] = state.m2[g, column] = 0
    assert all(torch.equal(a, b) for a, b in zip(spoiled, clean, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [None, 3])
def test_tiles_in_any_order_give_the_result_of_one_call(
    dtype: torch.dtype, groups: int | None
) -> None:
    x = random_rows(3 * TILE + 100, 33, dtype, mean=5.0)
    group = None if groups is None else random_groups(len(x), groups)
    whole = Batch(x, group, groups or 1).accumulated()
    tiles = [slice(begin, begin + TILE) for begin in range(0, len(x), TILE)]
    for order in itertools.permutations(tiles):
        state = empty(groups or 1, 33)
        for tile in order:
            ops.accumulate_moments(x[tile], None if group is None else group[tile], *state)
        assert torch.equal(state.count, whole.count)
        # A merge rounds a mean at most thrice and a second moment, all of whose terms are
        # positive, at most four times.
        torch.testing.assert_close(state.mean, whole.mean, rtol=4 * 3 * 2**-53, atol=0)
        torch.testing.assert_close(state.m2, whole.m2, rtol=4 * 4 * 2**-52, atol=0)


@settings(max_examples=100, deadline=None)
@given(batches(), st.data())
def test_rows_in_pieces_give_the_result_of_one_call(batch: Batch, data: st.DataObject) -> None:
    x = batch.x.reshape(-1, batch.x.shape[-1])
    group = None if batch.group is None else batch.group.flatten()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=6)))
    pieces = list(itertools.pairwise([0, *cuts, len(x)]))
    state = empty(batch.groups, x.shape[-1])
    for begin, end in data.draw(st.permutations(pieces)):
        ops.accumulate_moments(x[begin:end], None if group is None else group[begin:end], *state)
    check(state, exact(*batch), roundings=len(pieces))


def test_groups_without_rows_are_unchanged_and_empty_ones_are_initialised() -> None:
    state = empty(3, 8)
    state.count[0] = 7
    for tensor in (state.mean, state.m2):
        tensor[:] = (
            torch.nan
        )  # the state of the others must not be read either, as their count is 0
    held = [tensor.clone() for tensor in state]
    ops.accumulate_moments(torch.zeros(0, 8), torch.zeros(0, dtype=torch.int32), *state)
    x, group = random_rows(4, 8, torch.float32), torch.tensor([2, -1, 2, 2], dtype=torch.int32)
    for dtype in (torch.float32, torch.float64):
        found = State(*(tensor.clone() for tensor in state))
        ops.accumulate_moments(x.to(dtype), group, *found)
        for tensor, before in zip(found, held, strict=True):
            assert torch.equal(tensor[:2].nan_to_num(99.0), before[:2].nan_to_num(99.0))
        expected = exact(x, group, 3)
        check(State(*(t[2:] for t in found)), State(*(t[2:] for t in expected)))


def test_skipped_rows_are_not_read() -> None:
    x = random_rows(50, 33, torch.float32)
    group = random_groups(50, 2)
    expected = Batch(x, group, 2).accumulated()
    x[group < 0] = torch.nan
    assert all(map(torch.equal, Batch(x, group, 2).accumulated(), expected))


@settings(max_examples=50, deadline=None)
@given(batches())
def test_nothing_outside_the_state_is_written(batch: Batch) -> None:
    hidden = batch.x.shape[-1]
    state = empty(batch.groups, hidden)
    rooms = [torch.full((batch.groups + 2, hidden), torch.nan, dtype=torch.float64) for _ in "ab"]
    counts = torch.full((batch.groups + 2,), -77)
    inside = State(counts[1:-1], rooms[0][1:-1], rooms[1][1:-1])
    for tensor, zeros in zip(inside, state, strict=True):
        tensor.copy_(zeros)
    before = [surroundings(tensor) for tensor in inside[1:]]
    ops.accumulate_moments(batch.x, batch.group, *inside)
    assert [surroundings(tensor) for tensor in inside[1:]] == before
    assert counts[0] == counts[-1] == -77
    assert all(map(torch.equal, inside, batch.accumulated()))


def test_a_column_has_the_same_bits_with_and_without_others_beside_it() -> None:
    """1,024 groups in every tile: enough that tiles are merged before all are read."""
    x = random_rows(2100, 4160, torch.bfloat16)
    group = (torch.arange(2100, dtype=torch.int32) * 7) % 1024
    wide = Batch(x, group, 1024).accumulated()
    narrow = Batch(x[:, 33:72], group, 1024).accumulated()
    assert torch.equal(wide.count, narrow.count)
    assert torch.equal(wide.mean[:, 33:72], narrow.mean)
    assert torch.equal(wide.m2[:, 33:72], narrow.m2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 3])
def test_moments_have_the_same_bits_on_any_number_of_threads(
    dtype: torch.dtype, groups: int
) -> None:
    batch = Batch(random_rows(2500, 1000, dtype), random_groups(2500, groups), groups)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3, 8):
            torch.set_num_threads(count)
            found.append(batch.accumulated())
    finally:
        torch.set_num_threads(threads)
    for state in found[1:]:
        assert all(map(torch.equal, state, found[0]))


@pytest.mark.parametrize("isa", [name for name in _C.available_isas() if name != _C.isa()])
def test_every_instruction_set_of_this_processor_has_the_moments_of_float64(isa: str) -> None:
    environment = {**os.environ, "FASTSTEER_ISA": isa}
    # -k excludes this test and torch's rules, which do not depend on the instruction set.
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__]
    command += ["-k", "not instruction_set and not torch"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, result.stdout[-3000:]


@settings(max_examples=100, deadline=None)
@given(batches())
@example(Batch(torch.zeros(0, 3), None, 1))
def test_float64_and_devices_without_kernels_run_the_specification(batch: Batch) -> None:
    expected = exact(*batch)
    for x in (batch.x, batch.x.double()):
        state = empty(batch.groups, x.shape[-1])
        reference.accumulate_moments(x, batch.group, *state)
        assert torch.equal(state.count, expected.count)
        # Sums of n values in float64, each partial sum at most n times the largest value.
        rounding = 2**-52 * max(1, x.numel() // x.shape[-1])
        size = x.double().abs().max().item() if x.numel() > 0 else 0.0
        torch.testing.assert_close(state.mean, expected.mean, rtol=0, atol=rounding * size)
        torch.testing.assert_close(state.m2, expected.m2, rtol=rounding, atol=rounding * size**2)
    again = Batch(batch.x.double(), batch.group, batch.groups).accumulated()
    assert all(map(torch.equal, again, state))
