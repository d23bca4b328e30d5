"""Gradients of the steering ops: one kernel per backward pass, formulas where it is recorded.

A backward pass that is itself differentiated (``create_graph=True``) runs the formulas of
`faststeer.ops.reference`, which PyTorch can differentiate; any other runs the backward ops. Calls
with modes are differentiated through the reference instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from faststeer.ops import reference

_Grads = tuple[Tensor | None, ...]


def _kept(*entries: Tensor | None) -> tuple[Tensor | None, ...]:
    """Return the entries if they require gradients: others may be overwritten before backward."""
    learned = any(entry is not None and entry.requires_grad for entry in entries)
    return entries if learned else (None, None, None)


def _require_no_modes(modes: Tensor | None) -> None:
    if modes is not None:
        raise ValueError("this op has no gradients through modes; call it as faststeer.ops does")


def _needed(ctx: Any, count: int) -> tuple[bool, ...]:
    """Return which of the first arguments need gradients; the dispatcher omits later defaults."""
    needs: tuple[bool, ...] = ctx.needs_input_grad
    return (*needs, *(False,) * count)[:count]


def _save_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, residual, weight, eps, vectors, index, coefficient, modes, weight_offset = inputs
    _, h, inverse_rms = output
    _require_no_modes(modes)
    ctx.mark_non_differentiable(inverse_rms)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(h, weight, inverse_rms, *_kept(vectors, index, coefficient))
    ctx.eps, ctx.weight_offset = eps, weight_offset
    ctx.dtypes = (None if x is None else x.dtype, residual.dtype)


def _norm_backward(
    ctx: Any, grad_out: Tensor | None, grad_residual: Tensor | None, _grad_inverse_rms: None
) -> _Grads:
    for_x, for_residual, for_weight, _, for_vectors, _, for_coefficient = _needed(ctx, 7)
    h, weight, inverse_rms, *entries = ctx.saved_tensors
    if grad_out is None:
        grads = _entry_grads(grad_residual, entries, for_vectors, for_coefficient)
        grad_x, grad_h = _passed_on(ctx, grad_residual)
        return grad_x, grad_h, None, None, grads[0], None, grads[1], None, None

    op: Any = torch.ops.faststeer.steer_add_rms_norm_backward.default
    if torch.is_grad_enabled():
        op, inverse_rms = reference.steer_add_rms_norm_backward, reference.inverse_rms(h, ctx.eps)
    x_dtype, residual_dtype = ctx.dtypes
    alike = x_dtype == residual_dtype
    wanted = (for_residual or (for_x and alike), for_weight, for_vectors, for_coefficient)
    grad_h, grad_x, grad_weight, grad_vectors, grad_coefficient = op(
        *(grad_out, grad_residual, h, weight, inverse_rms, ctx.weight_offset, *entries),
        *(x_dtype if for_x and not alike else None, *wanted),
    )
    return (
        (grad_h if alike else grad_x) if for_x else None,
        grad_h if for_residual else None,
        grad_weight if for_weight else None,
        None,
        grad_vectors if for_vectors else None,
        None,
        grad_coefficient if for_coefficient else None,
        None,
        None,
    )


def _save_add(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, residual, vectors, index, coefficient, modes = inputs
    _require_no_modes(modes)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*_kept(vectors, index, coefficient))
    ctx.dtypes = (None if x is None else x.dtype, residual.dtype)


def _add_backward(ctx: Any, grad: Tensor | None) -> _Grads:
    _, _, for_vectors, _, for_coefficient = _needed(ctx, 5)
    grads = _entry_grads(grad, ctx.saved_tensors, for_vectors, for_coefficient)
    return (*_passed_on(ctx, grad), grads[0], None, grads[1], None)


def _passed_on(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and of the residual, to which that of their sum is passed."""
    for_x, for_residual = _needed(ctx, 2)
    if grad is None:
        return None, None
    return grad.to(ctx.dtypes[0]) if for_x else None, grad if for_residual else None


def _entry_grads(
    grad: Tensor | None, entries: Any, for_vectors: bool, for_coefficient: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of vectors and coefficient where nothing is normed."""
    if grad is None or not (for_vectors or for_coefficient):
        return None, None
    op: Any = torch.ops.faststeer.steer_add_backward.default
    if torch.is_grad_enabled():
        op = reference.steer_add_backward
    grad_vectors, grad_coefficient = op(grad, *entries, for_vectors, for_coefficient)
    return grad_vectors if for_vectors else None, grad_coefficient if for_coefficient else None


def register() -> None:
    """Register the backward of the ops whose names end in ``_autograd``; once per process."""
    torch.library.register_autograd(
        "faststeer::steer_add_rms_norm_autograd", _norm_backward, setup_context=_save_norm
    )
    torch.library.register_autograd(
        "faststeer::steer_add_autograd", _add_backward, setup_context=_save_add
    )
