"""Gradients of the steering ops, computed in float32.

With ``y = h * r``, ``r = rsqrt(mean(h^2) + eps)`` and ``g = grad_out * weight``:
``dh = grad_h + r * (g - y * mean(g * y))``. Calls with modes are differentiated
through the reference instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_Entries = tuple[Tensor | None, Tensor | None, Tensor | None]
_NO_ENTRIES: _Entries = (None, None, None)


def _norm_grads(
    h: Tensor, weight: Tensor, eps: float, weight_offset: float, grad_out: Tensor
) -> tuple[Tensor, Tensor]:
    wide = h.float()
    inverse_rms = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    y = wide * inverse_rms
    grad_y = grad_out.float() * (weight_offset + weight.float())
    grad_h = inverse_rms * (grad_y - y * (grad_y * y).mean(-1, keepdim=True))
    grad_weight = (grad_out.float() * y).flatten(0, -2).sum(0)
    return grad_h, grad_weight.to(weight.dtype)


def _entry_grads(grad_h: Tensor, entries: _Entries) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of `vectors` and `coefficient` for that of h, ``[..., H]`` float32."""
    vectors, index, coefficient = entries
    if vectors is None or index is None or coefficient is None:
        return None, None
    settings, hidden = index.shape[0], grad_h.shape[-1]
    grad_s = grad_h.reshape(settings, -1, hidden).sum(1)
    used = index >= 0
    rows = index.clamp(min=0).long()
    used_coefficient = torch.where(used, coefficient, 0.0)
    terms = used_coefficient[:, :, None] * grad_s[:, None, :]
    grad_vectors = torch.zeros(vectors.shape, dtype=torch.float32, device=vectors.device)
    grad_vectors.index_add_(0, rows.flatten(), terms.flatten(0, 1))
    dots = torch.einsum("rkh,rh->rk", vectors[rows].float(), grad_s)
    return grad_vectors.to(vectors.dtype), torch.where(used, dots, 0.0)


def _sum_grads(
    grad_h: Tensor, x_dtype: torch.dtype | None, residual_dtype: torch.dtype
) -> tuple[Tensor | None, Tensor]:
    return None if x_dtype is None else grad_h.to(x_dtype), grad_h.to(residual_dtype)


def _kept(entries: list[Tensor | None]) -> Iterable[Tensor | None]:
    """Return the entries if they require gradients: others may be overwritten before backward."""
    learned = any(entry is not None and entry.requires_grad for entry in entries)
    return entries if learned else _NO_ENTRIES


def _save_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, eps, *entries, _, weight_offset = inputs
    ctx.save_for_backward(output[1], weight, *_kept(entries))
    ctx.eps, ctx.weight_offset = eps, weight_offset
    ctx.dtypes = (None if x is None else x.dtype, residual.dtype)


def _norm_backward(ctx: Any, grad_out: Tensor, grad_residual: Tensor) -> tuple[Any, ...]:
    h, weight, *entries = ctx.saved_tensors
    grad_h, grad_weight = _norm_grads(h, weight, ctx.eps, ctx.weight_offset, grad_out)
    grad_h = grad_h + grad_residual.float()
    grad_vectors, grad_coefficient = _entry_grads(grad_h, tuple(entries))
    grad_x, grad_in = _sum_grads(grad_h, *ctx.dtypes)
    return grad_x, grad_in, grad_weight, None, grad_vectors, None, grad_coefficient, None, None


def _save_add(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, residual, *entries, _ = inputs
    ctx.save_for_backward(*_kept(entries))
    ctx.dtypes = (None if x is None else x.dtype, residual.dtype)


def _add_backward(ctx: Any, grad_residual: Tensor) -> tuple[Any, ...]:
    grad_h = grad_residual.float()
    grad_vectors, grad_coefficient = _entry_grads(grad_h, tuple(ctx.saved_tensors))
    return (*_sum_grads(grad_h, *ctx.dtypes), grad_vectors, None, grad_coefficient, None)


def register() -> None:
    """Register the backward of the ops whose names end in ``_autograd``; once per process."""
    torch.library.register_autograd(
        "faststeer::steer_add_rms_norm_autograd", _norm_backward, setup_context=_save_norm
    )
    torch.library.register_autograd(
        "faststeer::steer_add_autograd", _add_backward, setup_context=_save_add
    )
