"""Small and complete, for compute-sanitizer."""

import pytest
import torch
from backward_calls import NAMES, random_call
from on_gpu import (
    DTYPES,
    EPS,
    ON_GPU,
    check,
    check_modes,
    entries_with_modes,
    laid_out,
    new_state,
    random_entries,
)

from faststeer import ops

pytestmark = ON_GPU


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel_once_as_it_is_sanitized(dtype: torch.dtype) -> None:
    """Small and complete, for compute-sanitizer: each way of steering, each layout, moments."""
    for hidden, tokens in ((111, 5), (576, 5), (4096, 3), (4096, 1200)):
        for layout in ("dense", "odd"):
            residual = laid_out(torch.randn(tokens, hidden, device="cuda").to(dtype), layout)
            weight = torch.randn(hidden, device="cuda").to(dtype)
            for count, stored in ((0, 1), (1, 1), (1, 3), (5, 3)):
                entries = random_entries(tokens, hidden, count, 1, dtype, stored) if count else ()
                out, h = ops.steer_add_rms_norm(residual, residual, weight, EPS, *entries)
                check(out, h, residual, residual, weight, *entries)
            for group in (None, torch.arange(tokens, device="cuda", dtype=torch.int32) % 2 - 1):
                state = new_state(1, hidden)
                ops.accumulate_moments(residual, group, *state)
                rows = residual if group is None else residual[group == 0]
                torch.testing.assert_close(state[1][0], rows.double().mean(0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel_of_modes_once_as_it_is_sanitized(dtype: torch.dtype) -> None:
    for hidden, tokens in ((111, 6), (576, 6), (4096, 1200)):
        for layout in ("dense", "odd"):
            residual = laid_out(torch.randn(tokens, hidden, device="cuda").to(dtype), layout)
            weight = torch.randn(hidden, device="cuda").to(dtype)
            entries = entries_with_modes(hidden, 2, 5, dtype)
            arguments = residual, residual, weight, EPS, *entries
            out, h = ops.steer_add_rms_norm(*arguments, weight_offset=1.0)
            check_modes(out, h, residual, residual, weight, *entries)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel_of_backward_once_as_it_is_sanitized(dtype: torch.dtype) -> None:
    for hidden, tokens in ((111, 6), (576, 6), (4096, 600)):
        for settings in (1, tokens):
            call = random_call(tokens, hidden, settings, 3, dtype=dtype)
            given = [v.cuda() if torch.is_tensor(v) else v for v in vars(call).values()]
            norm = torch.ops.faststeer.steer_add_rms_norm_backward
            found = dict(
                zip(NAMES, norm(*given, torch.float16, True, True, True, True), strict=True)
            )
            call.require({name: gradient.cpu() for name, gradient in found.items()})
            torch.ops.faststeer.steer_add_backward(given[0], *given[6:], True, True)
