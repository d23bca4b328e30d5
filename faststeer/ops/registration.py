"""Registrations with torch's dispatcher: fake kernels, fallbacks, and autograd.

A fake kernel gives the compiler shapes without values. A call with a meta tensor uses it too, and
must not return uninitialised memory. On a device without compiled kernels those of Triton run, and
where there are none the reference, with one warning of either per device type.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from faststeer.ops import autograd, cuda_library, reference, triton_calls
from faststeer.ops.checks import require_known_groups, require_moments, require_one_device
from faststeer.utils.warnings import FaststeerWarning

_warned: set[tuple[str, str]] = set()


def accumulate_by_reference(
    x: Tensor, group: Tensor | None, count: Tensor, mean: Tensor, m2: Tensor
) -> None:
    """Update moments in place by the reference. Raises as `faststeer.ops.accumulate_moments`."""
    require_moments(x, group, count, mean, m2)
    require_known_groups(group, count.numel())
    reference.accumulate_moments(x, group, count, mean, m2)


def _dense_like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty_like(tensor, dtype=dtype, memory_format=torch.contiguous_format)


@torch.library.register_fake("faststeer::steer_add_rms_norm")
def _(
    x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, *rest: Any
) -> tuple[Tensor, Tensor]:
    require_one_device(residual, x, weight, *rest[:4])
    return _dense_like(residual), _dense_like(residual)


@torch.library.register_fake("faststeer::steer_add_rms_norm_autograd")
def _(
    x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    require_one_device(residual, x, weight, *rest[:4])
    tokens = residual.numel() // residual.shape[-1]
    inverse_rms = residual.new_empty(tokens, dtype=torch.float32)
    return _dense_like(residual), _dense_like(residual), inverse_rms


@torch.library.register_fake("faststeer::steer_add_rms_norm_backward")
def _(
    grad_out: Tensor,
    grad_residual: Tensor | None,
    h: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    weight_offset: float,
    vectors: Tensor | None,
    index: Tensor | None,
    coefficient: Tensor | None,
    x_dtype: torch.dtype | None,
    for_h: bool,
    for_weight: bool,
    for_vectors: bool,
    for_coefficient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rest = (grad_residual, h, weight, inverse_rms, vectors, index, coefficient)
    require_one_device(grad_out, *rest, name="grad_out")

    def like(tensor: Tensor | None, wanted: bool, dtype: torch.dtype | None = None) -> Tensor:
        return grad_out.new_empty(0) if tensor is None or not wanted else _dense_like(tensor, dtype)

    return (
        like(h, for_h),
        like(h, x_dtype is not None, x_dtype),
        like(weight, for_weight),
        like(vectors, for_vectors),
        like(coefficient, for_coefficient),
    )


@torch.library.register_fake("faststeer::steer_add_backward")
def _(
    grad: Tensor,
    vectors: Tensor,
    index: Tensor,
    coefficient: Tensor,
    for_vectors: bool,
    for_coefficient: bool,
) -> tuple[Tensor, Tensor]:
    require_one_device(grad, vectors, index, coefficient, name="gradient")
    return (
        _dense_like(vectors) if for_vectors else grad.new_empty(0),
        _dense_like(coefficient) if for_coefficient else grad.new_empty(0),
    )


@torch.library.register_fake("faststeer::steer_add_rms_norm.out")
@torch.library.register_fake("faststeer::steer_add_rms_norm_by_table")
def _(*arguments: Any) -> None:
    return None


@torch.library.register_fake("faststeer::steer_add")
@torch.library.register_fake("faststeer::steer_add_autograd")
def _(x: Tensor | None, residual: Tensor, *entries: Tensor | None) -> Tensor:
    require_one_device(residual, x, *entries)
    return _dense_like(residual)


@torch.library.register_fake("faststeer::accumulate_moments")
def _(x: Tensor, group: Tensor | None, count: Tensor, mean: Tensor, m2: Tensor) -> None:
    require_moments(x, group, count, mean, m2)


def _warn_of_fallback(device: torch.device, instead: str) -> None:
    if (device.type, instead) in _warned:
        return
    _warned.add((device.type, instead))
    why = (
        f"faststeer's CUDA kernels are {cuda_library.unavailable_reason()}"
        if device.type == "cuda"
        else f"faststeer has no compiled kernels for the device type {device.type!r}"
    )
    warnings.warn(f"{why}: {instead}", FaststeerWarning, stacklevel=6)


def _warn_of_reference(device: torch.device, why: str = "") -> None:
    _warn_of_fallback(
        device,
        f"its reference in plain PyTorch runs instead, with equal results, more slowly{why}",
    )


def _runs_on_triton(residual: Tensor, modes: Tensor | None = None) -> bool:
    """Return whether Triton's kernels take a call; warn of what runs."""
    unavailable = triton_calls.unavailable_reason(residual, modes)
    if unavailable is None:
        _warn_of_fallback(residual.device, "its Triton kernels run instead")
    else:
        _warn_of_reference(residual.device, f" (without its Triton kernels: {unavailable})")
    return unavailable is None


def _without_kernel_norm(
    x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, *rest: Any
) -> tuple[Tensor, Tensor]:
    triton = _runs_on_triton(residual, *rest[3:4])
    run = triton_calls.steer_add_rms_norm if triton else reference.steer_add_rms_norm
    return run(x, residual, weight, eps, *rest)


def _without_kernel_norm_autograd(
    x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    out, h = _without_kernel_norm(x, residual, weight, eps, *rest)
    return out, h, reference.inverse_rms(h, eps)


def _without_kernel_backward(*arguments: Any) -> tuple[Tensor, ...]:
    _warn_of_reference(arguments[0].device)
    formulas: Callable[..., tuple[Tensor, ...]] = reference.steer_add_rms_norm_backward
    if len(arguments) == 6:
        formulas = reference.steer_add_backward
    return formulas(*arguments)


def reference_out(*arguments: Any) -> None:
    """Write ``out`` and ``residual_out``, the last two arguments, by the reference."""
    *inputs, out, residual_out = arguments
    normed, h = reference.steer_add_rms_norm(*inputs)
    out.copy_(normed)
    residual_out.copy_(h)


def _without_kernel_out(*arguments: Any) -> None:
    triton = _runs_on_triton(arguments[1], arguments[7])
    run = triton_calls.steer_add_rms_norm_out if triton else reference_out
    run(*arguments)


_entry_tables: dict[int, tuple[Tensor, ...]] = {}  # on devices without kernels


def _set_entry_table(table: int, *entries: Tensor) -> None:
    _entry_tables[table] = entries


def _drop_entry_table(index: Tensor, table: int) -> None:
    del _entry_tables[table]


def _without_kernel_by_table(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, weight_offset: float, table: int
) -> None:
    if table not in _entry_tables:
        raise ValueError(f"there is no table {table} of entries")
    vectors, index, coefficient, modes = _entry_tables[table]
    tokens = residual.numel() // residual.shape[-1]
    if tokens > len(index):
        raise ValueError(
            f"table {table} of entries has shape {list(index.shape)}, too few lines for {tokens} "
            "tokens"
        )
    entries = (vectors, index[:tokens], coefficient[:tokens], modes)
    out, h = _without_kernel_norm(x, residual, weight, eps, *entries, weight_offset)
    x.copy_(out)
    residual.copy_(h)


def _without_kernel_add(x: Tensor | None, residual: Tensor, *entries: Tensor | None) -> Tensor:
    if _runs_on_triton(residual, *entries[3:4]):
        return triton_calls.steer_add(x, residual, *entries)
    # Always a new tensor: an op must not return its input.
    h = reference.steer_add(x, residual, *entries)
    return h.clone() if h is residual else h


def _without_kernel_moments(
    x: Tensor, group: Tensor | None, count: Tensor, mean: Tensor, m2: Tensor
) -> None:
    _warn_of_reference(x.device, " (Triton has no kernels of statistics)")
    accumulate_by_reference(x, group, count, mean, m2)


_FALLBACKS: dict[str, Callable[..., object]] = {
    "steer_add_rms_norm": _without_kernel_norm,
    "steer_add_rms_norm_autograd": _without_kernel_norm_autograd,
    "steer_add_rms_norm_backward": _without_kernel_backward,
    "steer_add_rms_norm.out": _without_kernel_out,
    "steer_add_rms_norm_by_table": _without_kernel_by_table,
    "set_entry_table": _set_entry_table,
    "drop_entry_table": _drop_entry_table,
    "steer_add": _without_kernel_add,
    "steer_add_autograd": _without_kernel_add,
    "steer_add_backward": _without_kernel_backward,
    "accumulate_moments": _without_kernel_moments,
}
for _name, _fallback in _FALLBACKS.items():
    torch.library.impl(f"faststeer::{_name}", "CompositeExplicitAutograd")(_fallback)

autograd.register()
