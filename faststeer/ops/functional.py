"""Typed wrappers of the ops: kernels where the device has them, else Triton or the reference.

Shapes: ``x`` and ``residual`` ``[..., H]`` (N tokens in all), ``weight`` ``[H]``, ``vectors``
``[S, H]``, ``index`` ``[R, K]`` int32 with -1 for none, ``coefficient`` ``[R, K]`` float32,
``modes`` ``[S, 5]`` float32. R divides N, and row r of `index` steers N/R consecutive tokens.
float32, bfloat16 and float16 may be mixed; results have the residual's dtype. An invalid
call raises ValueError before anything is written.

An id in `index` that no vector has, anything but -1 to S - 1, raises ValueError on the CPU, forward
and backward. CUDA kernels cannot raise: they make the rows that it steers NaN, and so are the
gradients that depend on these rows; no memory outside of `vectors` is read or written. What a row
of `steer_add` passes on to `x` and `residual` is its gradient as it came, whatever its entries.

Gradients are computed by one kernel per op, in float32, with one rounding of each element that is
written; the same inputs give the same bits, whatever the number of threads. With
``create_graph=True`` the formulas of the reference run instead, to be differentiated again.

Without `modes` ``steered(h) = h + sum_k c_k * V[i_k]``. With them a vector has push, pull, keep,
floor and ceiling values, which make projections, clamps, caps and a preserved norm: see
`faststeer.ops.reference.steered`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from faststeer import _C
from faststeer.ops import reference
from faststeer.ops.registration import accumulate_by_reference, reference_out

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _wants_tangents() -> bool:
    """Return whether a forward-mode derivative is being computed, which the ops do not carry."""
    return forward_ad._current_level >= 0


def _wants_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def are_watched() -> bool:
    """Return whether every op has to go through torch's dispatcher, or be differentiated.

    That is so while a tracer, a dispatch or function mode, the profiler or forward-mode
    differentiation is active.
    """
    return _wants_tangents() or _C.is_watched()


def _norm_op(*arguments: Any) -> Any:
    """Call the op, on the CPU without torch's dispatcher, which costs more than a row does."""
    if not torch.compiler.is_compiling() and arguments[1].is_cpu:
        results = _C.steer_add_rms_norm(*arguments)
        if results is not None:
            return results
    return torch.ops.faststeer.steer_add_rms_norm.default(*arguments)


def _add_op(*arguments: Any) -> Any:
    """Call the op, as `_norm_op`."""
    if not torch.compiler.is_compiling() and arguments[1].is_cpu:
        result = _C.steer_add(*arguments)
        if result is not None:
            return result
    return torch.ops.faststeer.steer_add.default(*arguments)


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
    """Add, steer and normalise in one pass.

    ``h = round(steered(residual + x))``, and
    ``out = round(h * rsqrt(mean(h^2) + eps) * (weight_offset + weight))`` (Zhang and Sennrich 2019,
    RMSNorm; Gemma's has an offset of 1).

    Returns ``(out, h)``, fresh contiguous tensors of the residual's shape and dtype. Without `x`
    nothing is added before steering. Differentiable in every tensor but `index`; with `modes`,
    and in forward mode, through the reference, more slowly.
    """
    arguments = (x, residual, weight, eps, vectors, index, coefficient, modes, weight_offset)
    op: Callable[..., Any] = _norm_op
    if residual.dtype not in _KERNEL_DTYPES or _wants_tangents():
        op = reference.steer_add_rms_norm
    elif _wants_grad(x, residual, weight, vectors, coefficient):
        if modes is None:
            out, h, _ = torch.ops.faststeer.steer_add_rms_norm_autograd.default(*arguments)
            return out, h
        op = reference.steer_add_rms_norm
    return cast("tuple[Tensor, Tensor]", op(*arguments))


def steer_add(
    x: Tensor | None,
    residual: Tensor,
    vectors: Tensor | None = None,
    index: Tensor | None = None,
    coefficient: Tensor | None = None,
    modes: Tensor | None = None,
) -> Tensor:
    """Return ``h = round(steered(residual + x))``: `steer_add_rms_norm` without the norm."""
    op: Callable[..., Any] = _add_op
    if _wants_grad(x, residual, vectors, coefficient):
        op = torch.ops.faststeer.steer_add_autograd.default
        if modes is not None:
            op = reference.steer_add
    if residual.dtype not in _KERNEL_DTYPES or _wants_tangents():
        op = reference.steer_add
    return cast(Tensor, op(x, residual, vectors, index, coefficient, modes))


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
    """Run `steer_add_rms_norm` into `out` and `residual_out`, which are overwritten.

    Both have the residual's shape and dtype and evenly spaced rows. `residual_out` may be the
    residual itself; any other overlap is refused, and so is a call that would need gradients.
    On the CPU this skips torch's dispatcher, which costs more than a row does, so that lazily
    negated views (`torch._neg_view`) are read without their sign.
    """
    inputs = (x, residual, weight, eps, vectors, index, coefficient, modes, weight_offset)
    arguments = (*inputs, out, residual_out)
    if _wants_tangents() or _wants_grad(
        x, residual, weight, vectors, coefficient, out, residual_out
    ):
        raise ValueError("given tensors are overwritten without gradients; call under no_grad")
    if residual.dtype not in _KERNEL_DTYPES:
        reference_out(*arguments)
        return
    if torch.compiler.is_compiling() or not _C.steer_add_rms_norm_out(*arguments):
        torch.ops.faststeer.steer_add_rms_norm.out(*arguments)
    _bump_versions(out, residual_out)


def accumulate_moments(
    x: Tensor, group: Tensor | None, count: Tensor, mean: Tensor, m2: Tensor
) -> None:
    """Merge the rows of `x` into the count, mean and centred second moment of their groups.

    ``count[g] += n``, and ``mean[g]`` and ``m2[g] = sum (x - mean[g])^2`` become those of all rows
    that group g has been given: start from zeros, divide ``m2`` by ``count`` for the variance
    (Chan, Golub and LeVeque 1983, equations 1.5).

    Args:
        x: ``[..., H]``, N rows; float32, bfloat16 or float16, more slowly float64. It is
            detached: statistics carry no gradients.
        group: int32 of any shape with N elements, the group of each row; -1 skips it. None: all
            rows belong to group 0, and G is 1.
        count: ``[G]`` int64, overwritten. Where it is 0, `mean` and `m2` are not read.
        mean: ``[G, H]`` float64, overwritten.
        m2: ``[G, H]`` float64, overwritten.

    The mean is within 1e-6 standard deviations of the float64 result, the variance within a
    relative error of 1e-6, as long as distances from the mean are 0 or within 1e-18 to
    1e18 (float32 has to hold their squares). A group without rows keeps its state; NaN and
    infinities affect only the column of their own group.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, a state that is not contiguous or
            requires grad, or on the CPU a group outside -1 to G - 1; before anything is written.
    """
    if _wants_grad(mean, m2):
        raise ValueError("mean and m2 are overwritten without gradients; call under no_grad")
    if x.dtype == torch.float64:
        accumulate_by_reference(x.detach(), group, count, mean, m2)
    else:
        torch.ops.faststeer.accumulate_moments.default(x.detach(), group, count, mean, m2)
    _bump_versions(count, mean, m2)


def _bump_versions(*written: Tensor) -> None:
    """Mark tensors as changed for backward passes that saved them; the dispatcher does not."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled():
        return
    torch.autograd.graph.increment_version([t for t in written if not t.is_inference()])
