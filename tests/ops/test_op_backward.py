"""The compiled backward ops: as near to float64 as float32 can be, of any shape, and repeatable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backward_calls import EPS, NAMES, BackwardCall, random_call
from hypothesis import given, settings
from hypothesis import strategies as st
from op_arguments import DTYPES, LAYOUTS, spaced
from torch import Tensor
from ulps import ulps

from faststeer import _C, ops
from faststeer.ops import reference

NORM = torch.ops.faststeer.steer_add_rms_norm_backward.default
ADD = torch.ops.faststeer.steer_add_backward.default
EVERYTHING = dict.fromkeys(("for_h", "for_weight", "for_vectors", "for_coefficient"), True)


def run(
    call: BackwardCall, x_dtype: torch.dtype | None = None, **wanted: bool
) -> dict[str, Tensor]:
    """Return the gradients that are wanted, by name; all by default."""
    wanted = wanted or EVERYTHING
    flags = [wanted.get(name, False) for name in EVERYTHING]
    if call.grad_out is None:
        entries = (call.vectors, call.index, call.coefficient)
        found = dict(zip(NAMES[3:], ADD(call.grad_residual, *entries, *flags[2:]), strict=True))
        kept = dict(zip(NAMES[3:], flags[2:], strict=True))
    else:
        found = dict(zip(NAMES, NORM(*vars(call).values(), x_dtype, *flags), strict=True))
        kept = dict(zip(NAMES, (flags[0], x_dtype is not None, *flags[1:]), strict=True))
    learned = call.vectors is not None
    for name, gradient in found.items():
        absent = not kept[name] or (not learned and name in NAMES[3:])
        assert not absent or gradient.numel() == 0, name
        kept[name] = not absent
    return {name: gradient for name, gradient in found.items() if kept[name]}


@st.composite
def calls(draw: st.DrawFn) -> BackwardCall:
    tokens = draw(st.sampled_from((0, 1, 2, 6, 17, 130, 300)))
    hidden = draw(st.sampled_from((1, 7, 17, 31, 32, 33, 63, 65, 100, 576, 4099)))
    lines = [n for n in range(1, max(tokens, 1) + 1) if tokens % n == 0]
    entries, stored = draw(st.sampled_from((0, 1, 4, 33))), draw(st.integers(1, 6))
    dtype, seed = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 2**31))
    shape = (tokens, hidden, draw(st.sampled_from(lines)), entries, stored)
    call = random_call(*shape, dtype, seed, draw(st.sampled_from((0.0, 1.0))))
    if draw(st.integers(0, 4)) == 0 and entries > 0:
        call.grad_out = call.h = call.weight = call.inverse_rms = None
    elif draw(st.booleans()):
        call.grad_residual = None
    if call.weight is not None:
        call.weight = call.weight.to(draw(st.sampled_from((dtype, *DTYPES))))
    if call.vectors is not None:
        call.vectors = call.vectors.to(draw(st.sampled_from(DTYPES)))
    for name in ("grad_out", "grad_residual", "h", "vectors"):
        tensor = getattr(call, name)
        if tensor is not None:
            setattr(call, name, spaced(tensor, draw(LAYOUTS)))
    return call


@settings(max_examples=400, deadline=None)
@given(calls(), st.sampled_from((None, *DTYPES)))
def test_gradients_are_those_of_float64(call: BackwardCall, x_dtype: torch.dtype | None) -> None:
    call.require(run(call, x_dtype))


def test_a_gradient_of_float32_is_off_by_few_roundings(figure) -> None:
    worst = dict.fromkeys(NAMES, 0.0)
    for seed in range(20):
        call = random_call(200, 1000, 50, 4, seed=seed)
        for name, error in call.require(run(call, torch.bfloat16)).items():
            worst[name] = max(worst[name], error)
    for name, error in worst.items():
        figure(f"roundings of the largest term by which {name} is off: {error:.2f}")
    assert worst["grad_h"] < 3


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_a_half_is_rounded_once(dtype: torch.dtype) -> None:
    """Without a second addend nothing cancels, so a second rounding would show."""
    call = random_call(64, 4099, 1, 0, dtype=dtype)
    call.grad_residual = None
    exact, _ = call.exact()
    found = run(call)
    for name in ("grad_h", "grad_weight"):
        assert ulps(found[name], exact[name].to(dtype)) <= 1, name
        off = float((found[name] != exact[name].to(dtype)).double().mean())
        assert off < 0.002, name  # two roundings differ from one in some percent


@pytest.mark.parametrize("isa", [name for name in _C.available_isas() if name != _C.isa()])
def test_every_instruction_set_passes_the_same_tests(isa: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*command, "-k", "float64 or float32 or rounded or threads"],
        env=os.environ | {"FASTSTEER_ISA": isa},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("tokens", "hidden", "settings_", "entries"),
    [(1200, 8200, 1200, 2), (2048, 512, 3, 4), (300, 33, 1, 1), (70, 4099, 35, 33)],
)
def test_the_number_of_threads_changes_no_bit(
    tokens: int, hidden: int, settings_: int, entries: int
) -> None:
    """The first call's sums take 39 MB: more than are kept at a time."""
    tokens -= tokens % settings_
    call = random_call(tokens, hidden, settings_, entries, dtype=torch.bfloat16)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(run(call, torch.float32))
    finally:
        torch.set_num_threads(before)
    call.require(found[0])
    for other in found[1:]:
        for name, gradient in found[0].items():
            assert torch.equal(gradient, other[name]), name


def test_rows_that_share_a_gradient_need_no_copies() -> None:
    """The gradient of a sum is one element, expanded."""
    call = random_call(40, 64, 4, 2)
    call.grad_out, call.grad_residual = torch.ones(64).expand(40, 64), torch.ones(()).expand(40, 64)
    call.require(run(call))


def test_a_row_of_zeros_and_one_of_tiny_numbers_have_finite_gradients() -> None:
    call = random_call(3, 64, 1, 0)
    call.h[0], call.h[1] = 0.0, 1e-20
    call.inverse_rms = reference.inverse_rms(call.h, 1e-38)
    for gradient in run(call).values():
        assert gradient.isfinite().all()


@pytest.mark.parametrize("unknown", [5, -2, 2**31 - 1])
def test_an_unknown_id_is_refused_before_anything_is_computed(unknown: int) -> None:
    call = random_call(8, 64, 4, 2)
    call.index[2, 1] = unknown
    with pytest.raises(ValueError, match=f"index holds {unknown}; expected -1 for none, or a row"):
        run(call)
    call.grad_out = None
    with pytest.raises(ValueError, match=f"index holds {unknown}"):
        run(call)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"h": torch.randn(8, 63)},
            "h has shape .8, 63.; expected the shape and dtype of grad_out",
        ),
        ({"h": torch.randn(8, 64).bfloat16()}, "h has shape .8, 64.; expected the shape and dtype"),
        ({"grad_residual": torch.randn(7, 64)}, "grad_residual has shape .7, 64.; expected"),
        ({"weight": torch.rand(63)}, "weight has shape .63."),
        ({"inverse_rms": torch.rand(7)}, "inverse_rms must be a contiguous float32 tensor .8."),
        ({"inverse_rms": torch.rand(8).double()}, "inverse_rms must be a contiguous float32"),
        ({"vectors": torch.randn(5, 63)}, "vectors has shape .5, 63."),
        (
            {"index": torch.zeros(3, 2).int(), "coefficient": torch.ones(3, 2)},
            "do not divide the 8",
        ),
        ({"coefficient": None}, "go together"),
        ({"vectors": None, "index": None}, "go together"),
    ],
)
def test_an_invalid_call_raises_a_clear_error(change: dict, message: str) -> None:
    call = random_call(8, 64, 4, 2)
    for name, value in change.items():
        setattr(call, name, value)
    with pytest.raises(ValueError, match=message):
        NORM(*vars(call).values(), None, True, True, True, True)


def test_the_forward_pass_saves_the_scale_of_each_row() -> None:
    for dtype in DTYPES:
        residual, weight = torch.randn(5, 3, 111).to(dtype), torch.rand(111).to(dtype)
        op = torch.ops.faststeer.steer_add_rms_norm_autograd.default
        out, h, inverse_rms = op(None, residual, weight, EPS)
        plain = ops.steer_add_rms_norm(None, residual, weight, EPS)
        assert torch.equal(out, plain[0])
        assert torch.equal(h, plain[1])
        exact = reference.inverse_rms(h.double(), EPS).float()
        assert ulps(inverse_rms, exact) <= 1
