"""What only the Triton kernels do, run on the CPU by Triton's interpreter.

`make test-triton` runs this file, and those of all ops with Triton in place of the CPU's kernels.
"""

from __future__ import annotations

import os

import pytest
import torch
from op_arguments import DTYPES, spaced
from op_calls import EPS, check
from steering_modes import ADD, KEEP_CLAMP

from faststeer.ops import reference, triton_calls

if not triton_calls.installed() or os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("make test-triton installs Triton and runs this file", allow_module_level=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [65, 127, 128, 300])
def test_rows_of_several_blocks_equal_the_specification(
    monkeypatch: pytest.MonkeyPatch, hidden: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(triton_calls, "MAX_ONE_BLOCK", 64)
    monkeypatch.setattr(triton_calls, "_BLOCK_OF_LONGER_ROWS", 64)
    layouts = ((None, "dense", 0), (dtype, "sliced", 1), (torch.float32, "unaligned", 3))
    for x_dtype, layout, entries in layouts:
        call = {
            "x": None if x_dtype is None else torch.randn(2, 3, hidden).to(x_dtype),
            "residual": spaced(torch.randn(2, 3, hidden).to(dtype), layout),
            "weight": torch.rand(hidden).to(dtype),
            "eps": EPS,
            "vectors": torch.randn(4, hidden),
            "index": torch.randint(-1, 4, (3, entries), dtype=torch.int32),
            "coefficient": torch.randn(3, entries),
            "modes": None,
            "weight_offset": 1.0,
        }
        check(call, *triton_calls.steer_add_rms_norm(**call))
        before, out = call["residual"].clone(), torch.full_like(call["residual"], torch.nan)
        triton_calls.steer_add_rms_norm_out(*call.values(), out, call["residual"])
        check(call | {"residual": before}, out, call["residual"])


@pytest.mark.parametrize("unknown", [-(2**31), -2, 4, 2**31 - 1])
@pytest.mark.parametrize("modes", [None, torch.tensor([ADD, KEEP_CLAMP]).repeat(2, 1)])
def test_an_id_without_a_vector_makes_its_rows_nan_and_no_others(unknown: int, modes) -> None:
    residual, weight = torch.randn(6, 40), torch.rand(40)
    index = torch.tensor([[0, -1], [3, unknown], [2, 2]], dtype=torch.int32)
    entries = torch.nn.functional.normalize(torch.randn(4, 40)), index, torch.randn(3, 2), modes
    out, h = triton_calls.steer_add_rms_norm(None, residual, weight, EPS, *entries)
    assert h[2:4].isnan().all()
    assert out[2:4].isnan().all()
    known = index.where(index != unknown, -1)
    expected = reference.steer_add(None, residual, entries[0], known, *entries[2:])
    tolerance = 0.0 if modes is None else 1e-6
    for rows in (slice(0, 2), slice(4, 6)):
        torch.testing.assert_close(h[rows], expected[rows], rtol=tolerance, atol=tolerance)
        assert out[rows].isfinite().all()


def test_a_vector_of_no_vectors_is_not_read() -> None:
    index = torch.tensor([[0], [-1]], dtype=torch.int32)
    h = triton_calls.steer_add(None, torch.ones(2, 8), torch.empty(0, 8), index, torch.ones(2, 1))
    assert h[0].isnan().all()
    assert torch.equal(h[1], torch.ones(8))


def test_a_trial_on_this_device_succeeds() -> None:
    assert triton_calls._trial(torch.device("cpu")) is None
