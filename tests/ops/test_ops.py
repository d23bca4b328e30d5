"""The compiled op equals its specification, for any shape, dtype, stride and instruction set."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_arguments import DTYPES, spaced, surroundings
from op_calls import EPS, NAMES, OUT_LAYOUTS, calls, check

from faststeer import _C, ops
from faststeer.ops import reference


@settings(max_examples=300, deadline=None)
@given(calls(), st.booleans())
def test_op_equals_its_specification(call: dict, through_dispatcher: bool) -> None:
    op = ops.steer_add_rms_norm
    if through_dispatcher:
        op = torch.ops.faststeer.steer_add_rms_norm.default
    out, h = op(**call)
    assert out.is_contiguous()
    assert h.is_contiguous()
    check(call, out, h)


@settings(max_examples=200, deadline=None)
@given(calls(), OUT_LAYOUTS, OUT_LAYOUTS, st.booleans())
def test_given_tensors_are_overwritten_and_nothing_outside_them(
    call: dict, out_layout: str, residual_layout: str, through_dispatcher: bool
) -> None:
    poison = torch.full_like(call["residual"], torch.nan, memory_format=torch.contiguous_format)
    out, h = spaced(poison, out_layout), spaced(poison, residual_layout)
    before = [surroundings(out), surroundings(h)]
    arguments = [*(dict.fromkeys(NAMES) | call).values()]
    if through_dispatcher:
        torch.ops.faststeer.steer_add_rms_norm.out(*arguments, out, h)
    else:
        ops.steer_add_rms_norm_out(*arguments, out, h)
    check(call, out, h)
    assert [surroundings(out), surroundings(h)] == before


@settings(max_examples=100, deadline=None)
@given(calls(), st.booleans())
def test_steer_add_gives_the_same_residual_without_the_norm(
    call: dict, through_dispatcher: bool
) -> None:
    entries = {n: call[n] for n in ("vectors", "index", "coefficient") if n in call}
    op = torch.ops.faststeer.steer_add.default if through_dispatcher else ops.steer_add
    h = op(call["x"], call["residual"], **entries)
    assert torch.equal(h, reference.steer_add(call["x"], call["residual"], **entries))
    assert h.data_ptr() != call["residual"].data_ptr() or h.numel() == 0


def test_the_residual_may_be_updated_in_place() -> None:
    x, residual, weight = torch.randn(5, 111), torch.randn(5, 111), torch.rand(111)
    expected, h = ops.steer_add_rms_norm(x, residual, weight, EPS)
    out = torch.full_like(x, torch.nan)
    none = (None, None, None, None, 0.0)
    ops.steer_add_rms_norm_out(x, residual, weight, EPS, *none, out, residual)
    assert torch.equal(residual, h)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_summed_beforehand_gives_the_bits_of_the_row_summed_in_the_kernel(dtype) -> None:
    x, residual = torch.randn(6, 576).to(dtype), torch.randn(6, 576).to(dtype)
    vectors, weight = torch.randn(4, 576).to(dtype), torch.rand(576).to(dtype)
    index = torch.tensor([[2, 0, 3, 1]], dtype=torch.int32)
    coefficient = torch.randn(1, 4)
    summed = reference.steering_sum(vectors, index, coefficient, 1, torch.float32)
    one = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1)
    expected = ops.steer_add_rms_norm(x, residual, weight, EPS, vectors, index, coefficient)
    results = ops.steer_add_rms_norm(x, residual, weight, EPS, summed, *one)
    for result, wanted in zip(results, expected, strict=True):
        assert torch.equal(result, wanted)
    for row in range(6):  # summed in the kernel, for a single row
        alone = ops.steer_add(x[row], residual[row], vectors, index, coefficient)
        assert torch.equal(alone, expected[1][row])


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_do_not_depend_on_the_number_of_threads(dtype: torch.dtype) -> None:
    call = [torch.randn(64, 1000).to(dtype) for _ in range(2)]
    weight, vectors = torch.rand(1000).to(dtype), torch.randn(3, 1000).to(dtype)
    index, coefficient = torch.randint(-1, 3, (64, 3), dtype=torch.int32), torch.randn(64, 3)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(ops.steer_add_rms_norm(*call, weight, EPS, vectors, index, coefficient))
    finally:
        torch.set_num_threads(threads)
    for out, h in results[1:]:
        assert torch.equal(out, results[0][0])
        assert torch.equal(h, results[0][1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_value_passes_through_unchanged(dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    h = ops.steer_add(torch.zeros_like(every), every)
    number = ~every.isnan()
    assert torch.equal(h[number], every[number])
    assert h[~number].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_to_nearest_even_for_all_magnitudes(dtype: torch.dtype) -> None:
    """Sums of a half and a float32 vector around every rounding boundary, subnormals included."""
    every = torch.arange(0, 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    step = (torch.nextafter(every, torch.full_like(every, torch.inf)).float() - every.float()) / 2
    for nudge in (1.0, 0.999, 1.001):
        vectors = (step * nudge).nan_to_num(posinf=0.0)[None]
        entries = (vectors, torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1))
        h = ops.steer_add(None, every, *entries)
        assert torch.equal(h, (every.float() + vectors[0]).to(dtype))


@pytest.mark.parametrize("isa", [name for name in _C.available_isas() if name != _C.isa()])
def test_every_instruction_set_of_this_processor_equals_the_specification(isa: str) -> None:
    environment = {**os.environ, "FASTSTEER_ISA": isa}
    # -k excludes this test.
    files = [__file__, str(Path(__file__).with_name("test_op_modes.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *files, "-k", "not instruction_set"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, result.stdout[-3000:]


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    code = "from faststeer import _C; _C.isa()"
    environment = {**os.environ, "FASTSTEER_ISA": "sse9"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "sse9" in result.stderr
    assert "portable" in result.stderr
