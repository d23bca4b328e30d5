"""The CUDA kernels of the backward pass keep the bounds that the CPU's keep."""

from __future__ import annotations

import re

import pytest
import torch
from backward_calls import EPS, BackwardCall, random_call
from built_wheel import BuiltOnce
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import DTYPES, Emulator, Fault, Started, shared_emulator
from layouts import ALIGNED, LAYOUTS, laid_out, storage_of
from steering_modes import ADD, KEEP
from torch import Tensor

from faststeer.ops import reference

NAMES = {torch.float32: "float", torch.bfloat16: "__nv_bfloat16", torch.float16: "__half"}
Results = dict[str, Tensor]


@pytest.fixture(scope="module")
def emulator(built_once: BuiltOnce) -> Emulator:
    return shared_emulator(built_once)


def results_of(call: BackwardCall, x_dtype: torch.dtype | None = None) -> Results:
    """Return room for every gradient, poisoned."""
    like = {"grad_vectors": call.vectors, "grad_coefficient": call.coefficient}
    if call.grad_out is not None:
        like |= {"grad_h": call.gradient, "grad_weight": call.weight}
        if x_dtype is not None:
            like["grad_x"] = call.gradient.to(x_dtype)
    return {
        name: torch.full(tensor.shape, torch.nan, dtype=tensor.dtype)
        for name, tensor in like.items()
        if tensor is not None
    }


def run(emulator: Emulator, call: BackwardCall, found: Results, **launch: int) -> list[Started]:
    """Run the kernels, and check that they write their results and nothing else."""
    tensors = [value for value in (*vars(call).values(), *found.values()) if torch.is_tensor(value)]
    storages = {t.untyped_storage().data_ptr(): storage_of(t) for t in tensors}
    before = {address: storage.clone() for address, storage in storages.items()}
    names = ("grad_h", "grad_x", "grad_weight", "grad_vectors", "grad_coefficient")
    started = emulator.backward(*vars(call).values(), *(found.get(n) for n in names), **launch)
    kept = {name: result.clone() for name, result in found.items()}
    for result in found.values():
        result.fill_(torch.nan)
    for address, storage in storages.items():
        assert torch.equal(storage, before[address])
    for name, result in found.items():
        result.copy_(kept[name])
    return started


@st.composite
def calls(draw: st.DrawFn) -> tuple[BackwardCall, Results]:
    tokens = draw(st.sampled_from((0, 1, 2, 6, 17, 70)))
    hidden = draw(st.sampled_from((1, 7, 64, 111, 576)))
    lines = [n for n in range(1, max(tokens, 1) + 1) if tokens % n == 0]
    entries, stored = draw(st.sampled_from((0, 1, 4, 33))), draw(st.integers(1, 6))
    dtype, tidy = draw(st.sampled_from(DTYPES)), draw(st.booleans())
    offset, seed = draw(st.sampled_from((0.0, 1.0))), draw(st.integers(0, 2**31))
    shape = (tokens, hidden, draw(st.sampled_from(lines)), entries, stored)
    call = random_call(*shape, dtype, seed, offset)
    layouts = st.sampled_from(ALIGNED if tidy else LAYOUTS)
    if draw(st.integers(0, 4)) == 0 and entries > 0:
        call.grad_out = call.h = call.weight = call.inverse_rms = None
    elif draw(st.booleans()):
        call.grad_residual = None
    if not tidy and call.weight is not None:
        call.weight = call.weight.to(draw(st.sampled_from(DTYPES)))
    if call.vectors is not None and draw(st.booleans()):
        call.vectors = call.vectors.to(dtype if tidy else draw(st.sampled_from(DTYPES)))
    for name in ("grad_out", "grad_residual", "h", "vectors"):
        tensor = getattr(call, name)
        if tensor is not None:
            setattr(call, name, laid_out(tensor, draw(layouts)))
    found = results_of(call, draw(st.sampled_from((None, *DTYPES))))
    wanted = draw(st.lists(st.sampled_from(sorted(found)), min_size=1, unique=True))
    return call, {name: found[name] for name in wanted}


@settings(max_examples=150, deadline=None)
@given(calls(), st.sampled_from((1, 10_000, 64 << 20)))
def test_gradients_are_those_of_float64(
    emulator: Emulator, drawn: tuple[BackwardCall, Results], wave_bytes: int
) -> None:
    call, found = drawn
    run(emulator, call, found, wave_bytes=wave_bytes)
    call.require(found)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(((3, 4096), (2, 11008), (2, 8200))),
    st.sampled_from(DTYPES),
    st.sampled_from((0, 4)),
)
def test_gradients_of_wide_rows_are_those_of_float64(
    emulator: Emulator, shape: tuple[int, int], dtype: torch.dtype, entries: int
) -> None:
    call = random_call(*shape, shape[0], entries, dtype=dtype)
    found = results_of(call)
    run(emulator, call, found)
    call.require(found)


@pytest.mark.parametrize("tokens_a_setting", [1, 2, 5, 7, 13, 650, 1300])
def test_many_rows_meet_in_order_whatever_shares_a_setting(
    emulator: Emulator, tokens_a_setting: int
) -> None:
    """Six rows per block: several settings, or one of several blocks per setting."""
    tokens = 1300 - 1300 % tokens_a_setting
    call = random_call(tokens, 8, tokens // tokens_a_setting, 2)
    found = results_of(call)
    run(emulator, call, found)
    call.require(found)
    again = results_of(call)
    run(emulator, call, again, wave_bytes=5_000)
    for name in found:  # waves are no other sums, only those of vectors are cut elsewhere
        if name != "grad_vectors":
            assert torch.equal(found[name], again[name])
    call.require(again)


PACKED = [
    *((dtype, dtype, True) for dtype in DTYPES),
    *((torch.float32, dtype, True) for dtype in DTYPES[1:]),
    *((dtype, dtype, False) for dtype in DTYPES),
]


@pytest.mark.parametrize(("own", "x", "normed"), PACKED)
def test_each_packed_kernel_runs_where_it_is_meant_to(
    emulator: Emulator, own: torch.dtype, x: torch.dtype, normed: bool
) -> None:
    call = random_call(6, 96, 3, 3, dtype=own)
    if not normed:
        call.grad_out = call.h = call.weight = call.inverse_rms = None
    found = results_of(call, None if x == own else x)
    first, *rest = run(emulator, call, found)
    assert f"backward_packed<{NAMES[own]}, {NAMES[x]}, {str(normed).lower()}>(" in first.kernel
    names = [re.search(r"(\w+)(<\w+>)?\(", one.kernel)[1] for one in rest]
    assert names == ["scatter_segments", *["merge_sums"] * (3 if normed else 2)]
    call.require(found)


@pytest.mark.parametrize("reason", ["hidden", "base", "stride", "dtypes", "size"])
def test_what_packs_cannot_move_goes_element_by_element(emulator: Emulator, reason: str) -> None:
    hidden = {"hidden": 33, "size": 4096 + 4}.get(reason, 64)
    call = random_call(3, hidden, 1, 1)
    layout = {"base": (1, 0), "stride": (0, 1)}.get(reason, (0, 0))
    call.h = laid_out(call.h, layout)
    if reason == "dtypes":
        call.weight = call.weight.bfloat16()
    (started, *_) = run(emulator, call, results_of(call))
    assert "backward_general(" in started.kernel


def test_these_are_all_kernels_that_are_built(emulator: Emulator) -> None:
    built = {
        re.search(r"(?<=faststeer::backward_)(packed|general)(<.*>)?(?=\()", name)
        for name in emulator.symbols()
        if "{lambda" not in name and "launch" not in name
    }
    expected = {f"packed<{NAMES[a]}, {NAMES[b]}, {str(n).lower()}>" for a, b, n in PACKED}
    assert {name[0] for name in built if name is not None} == expected | {"general"}


@pytest.mark.parametrize("hidden", [64, 65])
@pytest.mark.parametrize("unknown", [-2, 5, 2**31 - 1, -(2**31)])
def test_an_unknown_id_makes_its_rows_gradients_nan_and_reads_nothing(
    emulator: Emulator, unknown: int, hidden: int
) -> None:
    call = random_call(8, hidden, 4, 2)
    call.index = torch.tensor([[0, -1], [1, unknown], [2, 1], [3, -1]], dtype=torch.int32)
    call.h[2:4] = torch.nan  # as the forward pass leaves the rows of this setting
    found = results_of(call)
    run(emulator, call, found)
    nan = found["grad_h"].isnan()
    assert nan[2:4].all()
    assert not nan[[0, 1, 4, 5, 6, 7]].any()
    assert found["grad_coefficient"].isnan().tolist() == [
        *([False, False], [True, True], [False, False], [False, False])
    ]
    assert found["grad_vectors"].isnan().all(1).tolist() == [False, True, False, False, False]
    assert not found["grad_vectors"][[0, 2, 3, 4]].isnan().any()
    assert found["grad_weight"].isnan().all()


def test_without_a_norm_an_unknown_id_spoils_its_setting_alone(emulator: Emulator) -> None:
    call = random_call(4, 64, 2, 2)
    call.grad_out = call.h = call.weight = call.inverse_rms = None
    call.index = torch.tensor([[0, 7], [1, -1]], dtype=torch.int32)
    found = results_of(call)
    run(emulator, call, found)
    assert found["grad_vectors"].isnan().all(1).tolist() == [True, *[False] * 4]
    assert found["grad_coefficient"].isnan().tolist() == [[True, True], [False, False]]


# Rows of several warps, so that each barrier has something to keep apart. Two rows have a barrier
# each for the norm, and one for the dots of each setting. Nothing is merged: with one part per
# setting the dots are the results.
@pytest.mark.parametrize("hidden", [512, 111])
def test_no_barrier_of_the_rows_can_be_left_out(emulator: Emulator, hidden: int) -> None:
    call = random_call(512, hidden, 512, 2)  # two rows in a block
    found = {n: t for n, t in results_of(call).items() if n in ("grad_h", "grad_coefficient")}
    assert len(run(emulator, call, found, dropped_barrier=4)) == 1  # there is none of this number
    call.require(found)
    for dropped in range(4):
        with pytest.raises(Fault, match="race: the results depend on the order of threads"):
            run(emulator, call, found, dropped_barrier=dropped)


def test_no_barrier_of_scatter_and_merge_can_be_left_out(emulator: Emulator) -> None:
    call = random_call(1200, 8, 1200, 4, stored=2)
    call.grad_out = call.h = call.weight = call.inverse_rms = None
    found = {"grad_vectors": results_of(call)["grad_vectors"]}
    run(emulator, call, found)  # without dots the rows have no barrier
    call.require(found)
    for dropped in range(4):  # of two rounds: the list is counted and filled
        with pytest.raises(Fault):
            run(emulator, call, found, dropped_barrier=dropped)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [64, 65])
@pytest.mark.parametrize("modes", [True, False])
def test_the_forward_pass_saves_the_scale_of_each_row(
    emulator: Emulator, dtype: torch.dtype, hidden: int, modes: bool
) -> None:
    x, residual, out, h = torch.randn(4, 5, hidden).to(dtype)
    vectors, index = torch.randn(2, hidden), torch.tensor([[0, 1]], dtype=torch.int32)
    entries = (vectors, index, torch.ones(1, 2))
    inverse_rms = torch.full((5,), torch.nan)
    line = torch.tensor([ADD, KEEP]) if modes else None
    operands = (x, residual, torch.ones(hidden).to(dtype), EPS, *entries, out, h, line)
    emulator.steer_norm(*operands, inverse_rms=inverse_rms)
    exact = reference.inverse_rms(h.double(), EPS)
    # For halves rsqrtf is within 2 ulp; see rms_scale.
    roundings = 4 if dtype == torch.float32 else 8
    assert ((inverse_rms - exact).abs() <= roundings * 2**-24 * exact).all()


@settings(max_examples=1000, deadline=None)
@given(
    tokens=st.one_of(st.integers(1, 5000), st.integers(1, 2**40)),
    hidden=st.integers(1, 20_000),
    stored=st.integers(1, 1000),
    entries=st.integers(0, 40),
    per_setting=st.integers(1, 5000),
    dtype=st.sampled_from(DTYPES),
)
def test_a_plan_has_each_row_once_and_bounded_scratch(
    emulator: Emulator,
    tokens: int,
    hidden: int,
    stored: int,
    entries: int,
    per_setting: int,
    dtype: torch.dtype,
) -> None:
    lines = max(1, tokens // per_setting)
    tokens = lines * (tokens // lines)
    plan = emulator.plan_backward(tokens, hidden, stored, lines, entries, dtype)
    assert 1 <= plan.rows_a_block <= 64
    lines, of_line = (lines, tokens // lines) if entries else (1, tokens)
    assert (plan.parts - 1) * plan.rows_a_block < of_line
    if plan.parts > 1:
        assert plan.settings_a_block == 1
        assert plan.parts * plan.rows_a_block >= of_line
        assert plan.blocks == lines * plan.parts
    else:
        assert plan.rows_a_block == plan.settings_a_block * of_line
        assert (plan.blocks - 1) * plan.settings_a_block < lines
        assert plan.blocks * plan.settings_a_block >= lines
    assert plan.segments == lines * plan.parts
    width = 16 // dtype.itemsize
    assert plan.packed == (hidden % width == 0 and hidden <= 1024 * width)
    assert plan.shared_bytes == (plan.threads * width * 4 if plan.packed else 0)
    if entries > 0:
        stride = -(-hidden // 4) * 4
        segments = plan.blocks_a_wave * plan.settings_a_block * stride * 4
        assert plan.blocks_a_wave == 1 or segments <= 64 << 20
        assert 1 <= plan.splits <= 32
        weights = plan.blocks * stride * 4
        vectors = plan.splits * stored * stride * 8
        dots = plan.segments * entries * 4 if plan.parts > 1 else 0
        assert plan.scratch_bytes == segments + weights + vectors + dots
