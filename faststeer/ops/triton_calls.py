"""Calls of the Triton kernels: which devices have them, and launches.

Triton is not a dependency: torch for NVIDIA, AMD and Intel GPUs brings its own. It compiles a
kernel at its first call, for which it needs a C compiler. No GPU has run these kernels yet, so each
device compares them with the reference once, before any result is used.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from faststeer.ops import reference
from faststeer.ops.steering_checks import SteeringCall, checked, output_rows, require_apart

DEVICE_TYPES = ("cuda", "xpu")  # torch calls ROCm "cuda"
# What a row may have to be kept in registers: 32 elements for each of 512 threads.
MAX_ONE_BLOCK = 16384
_BLOCK_OF_LONGER_ROWS = 8192
# Sums are the reference's only without fused multiply-add.
OPTIONS: dict[str, Any] = {"enable_fp_fusion": False}
# Added with a kept norm, projected, capped: the vectors of the trial are long.
_MODES_OF_TRIAL = (
    (1.0, 0.0, 1.0, 0.0, 0.0),
    (0.0, 1e-3, 0.0, 0.0, 0.0),
    (0.0, 1e-3, 0.0, -0.5, 0.5),
)
_trials: dict[torch.device, str | None] = {}


def installed() -> bool:
    """Return whether there is a Triton to import."""
    return importlib.util.find_spec("triton") is not None


def unavailable_reason(residual: Tensor, modes: Tensor | None) -> str | None:
    """Return why the Triton kernels do not run a call; None if they do."""
    device = residual.device
    if device.type not in DEVICE_TYPES:
        return f"Triton does not support {device.type!r}"
    if modes is not None and residual.shape[-1] > MAX_ONE_BLOCK:
        return f"modes are limited to rows of {MAX_ONE_BLOCK}"
    if device not in _trials:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is captured before a call outside of one has tried them"
        _trials[device] = _trial(device) if installed() else "Triton is not installed"
    return _trials[device]


def _trial(device: torch.device) -> str | None:
    """Return how the kernels fail on small calls; None where they give the reference's results."""
    rows = torch.arange(24 * 300, dtype=torch.float32, device=device).sin().view(24, 300)
    index = torch.arange(24, dtype=torch.int32, device=device).view(3, 8) % 7 - 1
    modes = torch.tensor(_MODES_OF_TRIAL, device=device).repeat(2, 1)
    bf16, f16, f32 = torch.bfloat16, torch.float16, torch.float32
    try:
        for own, other, mode in ((f32, f16, None), (bf16, f32, None), (f32, f32, modes)):
            inputs = rows[:6].to(bf16), rows[6:12].to(own), rows[12].to(other)
            call = (*inputs, 1e-5, rows[13:19].to(other), index, index.float().cos(), mode)
            found, expected = steer_add_rms_norm(*call), reference.steer_add_rms_norm(*call)
            if mode is None and not torch.equal(found[1], expected[1]):
                return "a trial of them did not give the reference's residual"
            torch.testing.assert_close(found, expected)
    except Exception as error:  # of the compiler, of its C compiler, of the driver
        return f"a trial of them failed with {type(error).__name__}: {str(error).strip()}"
    return None


def steer_add_rms_norm(
    x: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    vectors: Tensor | None = None,
    index: Tensor | None = None,
    coefficient: Tensor | None = None,
    modes: Tensor | None = None,
    weight_offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return ``(out, h)`` as `faststeer.ops.steer_add_rms_norm`."""
    _require_given(weight=weight)
    call = checked(x, residual, weight, vectors, index, coefficient, modes)
    out, h = _dense_like(residual), _dense_like(residual)
    width = residual.shape[-1]
    _launch(call, out.view(-1, width), h.view(-1, width), eps, weight_offset)
    return out, h


def steer_add(
    x: Tensor | None,
    residual: Tensor,
    vectors: Tensor | None = None,
    index: Tensor | None = None,
    coefficient: Tensor | None = None,
    modes: Tensor | None = None,
) -> Tensor:
    """Return ``h`` as `faststeer.ops.steer_add`."""
    call = checked(x, residual, None, vectors, index, coefficient, modes)
    h = _dense_like(residual)
    _launch(call, None, h.view(-1, residual.shape[-1]), 0.0, 0.0)
    return h


def steer_add_rms_norm_out(
    x: Tensor | None,
    residual: Tensor,
    weight: Tensor,
    eps: float,
    vectors: Tensor | None,
    index: Tensor | None,
    coefficient: Tensor | None,
    modes: Tensor | None,
    weight_offset: float,
    out: Tensor,
    residual_out: Tensor,
) -> None:
    """Write `out` and `residual_out` as `faststeer.ops.steer_add_rms_norm_out`."""
    _require_given(weight=weight, out=out, residual_out=residual_out)
    call = checked(x, residual, weight, vectors, index, coefficient, modes)
    rows = output_rows("out", out, residual), output_rows("residual_out", residual_out, residual)
    require_apart(call, *rows)
    _launch(call, *rows, eps, weight_offset)


def _require_given(**tensors: Tensor | None) -> None:
    """Raise ValueError for None, which the dispatcher passes on where a schema has a tensor."""
    for name, tensor in tensors.items():
        if tensor is None:
            raise ValueError(f"{name} is None; expected a tensor")


def _dense_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def block_of(hidden: int) -> tuple[int, bool, int]:
    """Return the elements of a block, whether a row fits into one, and the warps; unmeasured."""
    block = 1 << (hidden - 1).bit_length()
    one_block = block <= MAX_ONE_BLOCK
    if not one_block:
        block = _BLOCK_OF_LONGER_ROWS
    return block, one_block, min(max(block // 512, 1), 16)


def _launch(
    call: SteeringCall, out: Tensor | None, h: Tensor, eps: float, weight_offset: float
) -> None:
    from faststeer.ops.triton_kernels import steer_rows

    tokens, hidden = call.residual.shape
    if tokens == 0:
        return
    block, one_block, warps = block_of(hidden)
    index, vectors = call.index, call.vectors
    with torch.accelerator.device_index(call.residual.device.index):
        steer_rows[(tokens,)](
            *(call.x, call.residual, call.weight, out, h),
            *(vectors, index, call.coefficient, call.modes),
            *(_row_stride(rows) for rows in (call.x, call.residual, out, h, vectors)),
            hidden,
            0 if vectors is None else vectors.shape[0],
            0 if index is None else index.shape[1],
            1 if index is None else tokens // index.shape[0],
            1.0 / hidden,
            eps,
            weight_offset,
            block=block,
            one_block=one_block,
            num_warps=warps,
            **OPTIONS,
        )


def _row_stride(rows: Tensor | None) -> int:
    return 0 if rows is None else rows.stride(0)
