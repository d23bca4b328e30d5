"""Calls of the Triton kernels: which devices have them, and launches.

Triton is not a dependency: torch for NVIDIA, AMD and Intel GPUs brings its own. It compiles a kernel
at its first call, for which it needs a C compiler. No GPU has run these kernels yet, so before any
result is used the kernels of a device are compared with the reference once.
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
_trials: dict[torch.device, str | None] = {}


def unavailable_reason(device: torch.device) -> str | None:
    """Return why the Triton kernels do not run on this device; None if they do."""
    if device.type not in DEVICE_TYPES:
        return f"Triton has no kernels for {device.type!r}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device not in _trials:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is captured before a call outside of it has tried the kernels"
        _trials[device] = _trial(device)
    return _trials[device]


def _trial(device: torch.device) -> str | None:
    """Return how the kernels fail on a small call; None where they give the reference's bits."""
    rows = torch.arange(24 * 300, dtype=torch.float32, device=device).sin().view(24, 300)
    index = torch.arange(24, dtype=torch.int32, device=device).view(3, 8) % 7 - 1
    coefficient = index.float().cos()
    try:
        for dtype, other in ((torch.float32, torch.float16), (torch.bfloat16, torch.float32)):
            residual, weight = rows[:6].to(dtype), rows[6].to(other)
            x, vectors = rows[7:13].to(torch.bfloat16), rows[13:19].to(other)
            call = (x, residual, weight, 1e-5, vectors, index, coefficient)
            out, h = steer_add_rms_norm(*call)
            normed, expected = reference.steer_add_rms_norm(*call)
            if not torch.equal(h, expected):
                return "their residual is not the reference's"
            torch.testing.assert_close(out, normed)
    except Exception as error:  # of the compiler, of its C compiler, of the driver
        return f"a trial of them failed ({type(error).__name__}: {str(error).strip()})"
    return None


def covers(residual: Tensor, modes: Tensor | None) -> bool:
    """Return whether the kernels can run a call: a row with modes has to fit into registers."""
    return modes is None or residual.shape[-1] <= MAX_ONE_BLOCK


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
    for name, tensor in (("weight", weight), ("out", out), ("residual_out", residual_out)):
        if tensor is None:  # the dispatcher lets it pass
            raise ValueError(f"{name} is None; expected a tensor")
    call = checked(x, residual, weight, vectors, index, coefficient, modes)
    rows = output_rows("out", out, residual), output_rows("residual_out", residual_out, residual)
    require_apart(call, *rows)
    _launch(call, *rows, eps, weight_offset)


def _dense_like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _launch(
    call: SteeringCall, out: Tensor | None, h: Tensor, eps: float, weight_offset: float
) -> None:
    from faststeer.ops.triton_kernels import steer_rows

    tokens, hidden = call.residual.shape
    if tokens == 0:
        return
    index, vectors = call.index, call.vectors
    block = 1 << (hidden - 1).bit_length()
    one_block = block <= MAX_ONE_BLOCK
    if not one_block:
        block = _BLOCK_OF_LONGER_ROWS
    options: dict[str, Any] = {
        "BLOCK": block,
        "ONE_BLOCK": one_block,
        "num_warps": min(max(block // 512, 1), 16),  # unmeasured
        "enable_fp_fusion": False,  # or sums are not the reference's
    }
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
            **options,
        )


def _row_stride(rows: Tensor | None) -> int:
    return 0 if rows is None else rows.stride(0)
