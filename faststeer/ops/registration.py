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


@torch.library.register_fake("faststeer::steer_add_rms_norm")
@torch.library.register_fake("faststeer::steer_add_rms_norm_autograd")
def _(
    x: Tensor | None, residual: Tensor, weight: Tensor, eps: float, *rest: Any
) -> tuple[Tensor, Tensor]:
    require_one_device(residual, x, weight, *rest[:4])
    dense = torch.contiguous_format
    return (
        torch.empty_like(residual, memory_format=dense),
        torch.empty_like(residual, memory_format=dense),
    )


@torch.library.register_fake("faststeer::steer_add_rms_norm.out")
def _(*arguments: Any) -> None:
    return None


@torch.library.register_fake("faststeer::steer_add")
@torch.library.register_fake("faststeer::steer_add_autograd")
def _(x: Tensor | None, residual: Tensor, *entries: Tensor | None) -> Tensor:
    require_one_device(residual, x, *entries)
    return torch.empty_like(residual, memory_format=torch.contiguous_format)


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
    "steer_add_rms_norm_autograd": _without_kernel_norm,
    "steer_add_rms_norm.out": _without_kernel_out,
    "steer_add": _without_kernel_add,
    "steer_add_autograd": _without_kernel_add,
    "accumulate_moments": _without_kernel_moments,
}
for _name, _fallback in _FALLBACKS.items():
    torch.library.impl(f"faststeer::{_name}", "CompositeExplicitAutograd")(_fallback)

autograd.register()
