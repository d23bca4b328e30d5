"""The Triton kernels on a GPU, as GPUs without compiled kernels run them; here called by name."""

import pytest
import torch
from on_gpu import (
    DTYPES,
    EPS,
    ON_GPU,
    check,
    check_modes,
    entries_with_modes,
    laid_out,
    random_entries,
)

from faststeer.ops import triton_calls

pytestmark = [
    *ON_GPU,
    pytest.mark.skipif(not triton_calls.installed(), reason="Triton is not installed"),
]


def test_they_pass_the_trial_that_decides_whether_they_run() -> None:
    assert triton_calls.unavailable_reason(torch.ones(1, 8, device="cuda"), None) is None


# 16,385 elements take several blocks.
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [1, 7, 111, 576, 4096, 16384, 16385])
@pytest.mark.parametrize("layout", ["dense", "sliced", "odd"])
def test_rows_equal_the_specification(dtype: torch.dtype, hidden: int, layout: str) -> None:
    x, residual = torch.randn(2, 60, hidden, device="cuda").to(dtype)
    weight = torch.randn(hidden, device="cuda")
    residual = laid_out(residual, layout)
    for settings, count in ((1, 1), (60, 4), (20, 40), (1, 0)):
        for vector_dtype in {dtype, torch.float32}:
            entries = random_entries(60, hidden, count, settings, vector_dtype)
            out, h = triton_calls.steer_add_rms_norm(x, residual, weight, EPS, *entries)
            check(out, h, x, residual, weight, *entries)
            assert torch.equal(triton_calls.steer_add(x, residual, *entries), h)
    before, out = residual.clone(), torch.full_like(x, torch.nan)
    triton_calls.steer_add_rms_norm_out(
        x, residual, weight, EPS, *entries, None, 0.0, out, residual
    )
    check(out, residual, x, before, weight, *entries)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("hidden", [7, 576, 4096, 16384])
def test_modes_are_as_exact_as_float32_makes_them(dtype: torch.dtype, hidden: int) -> None:
    x, residual = torch.randn(2, 60, hidden, device="cuda").to(dtype)
    weight = torch.randn(hidden, device="cuda").to(dtype)
    for settings, count in ((1, 1), (30, 4), (60, 40)):
        entries = entries_with_modes(hidden, settings, count, torch.float32)
        arguments = x, residual, weight, EPS, *entries, 1.0
        check_modes(*triton_calls.steer_add_rms_norm(*arguments), x, residual, weight, *entries)


def test_an_id_without_a_vector_makes_its_row_nan() -> None:
    index = torch.tensor([[0], [6], [-2]], dtype=torch.int32, device="cuda")
    vectors, coefficient = torch.randn(6, 80, device="cuda"), torch.ones(3, 1, device="cuda")
    h = triton_calls.steer_add(None, torch.ones(3, 80, device="cuda"), vectors, index, coefficient)
    assert h[0].isfinite().all()
    assert h[1:].isnan().all()


def test_a_captured_graph_follows_ids_and_coefficients() -> None:
    x, residual = torch.randn(2, 8, 4096, device="cuda").bfloat16()
    weight = torch.randn(4096, device="cuda").bfloat16()
    entries = random_entries(8, 4096, 4, 8, torch.float32)
    triton_calls.steer_add_rms_norm(x, residual, weight, EPS, *entries)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, h = triton_calls.steer_add_rms_norm(x, residual, weight, EPS, *entries)
    for _ in range(3):
        entries[1].random_(-1, 6)
        entries[2].normal_()
        graph.replay()
        check(out, h, x, residual, weight, *entries)
