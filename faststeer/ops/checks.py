"""Checks of a call's tensors, for code paths without a kernel that checks them."""

from __future__ import annotations

import torch
from torch import Tensor


def require_one_device(first: Tensor, *others: Tensor | None, name: str = "residual") -> None:
    """Raise ValueError unless all are on the device of `first`, named `name` in the message."""
    for other in others:
        if other is not None and other.device != first.device:
            raise ValueError(f"a tensor is on {other.device}, but the {name} on {first.device}")


def require_moments(
    x: Tensor, group: Tensor | None, count: Tensor, mean: Tensor, m2: Tensor
) -> None:
    """Raise ValueError where `accumulate_moments` would for shapes, dtypes or devices."""
    require_one_device(x, group, count, mean, m2, name="x")
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"x has shape {list(x.shape)}; expected [..., H]")
    groups, hidden = count.numel(), x.shape[-1]
    for name, tensor, shape, dtype in (
        ("count", count, (groups,), torch.int64),
        ("mean", mean, (groups, hidden), torch.float64),
        ("m2", m2, (groups, hidden), torch.float64),
    ):
        if tensor.dtype != dtype:
            raise ValueError(f"{name} must be {str(dtype).removeprefix('torch.')}")
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {list(tensor.shape)}; expected {list(shape)}")
    if group is None:
        if groups != 1:
            raise ValueError(f"there are {groups} groups: give the group of each row")
    elif group.dtype != torch.int32:
        raise ValueError("group must be int32")
    elif group.numel() * hidden != x.numel():
        raise ValueError(
            f"group has shape {list(group.shape)}; "
            f"expected one for each of the {x.numel() // hidden} rows of x"
        )


def require_known_groups(group: Tensor | None, groups: int) -> None:
    """Raise ValueError where `group` on the CPU holds anything but -1 to `groups` - 1."""
    if group is None or group.device.type != "cpu" or torch.compiler.is_compiling():
        return
    unknown = group[(group < -1) | (group >= groups)]
    if unknown.numel() > 0:
        raise ValueError(
            f"group holds {int(unknown.flatten()[0])}; "
            f"expected -1 to skip a row, or a group, 0 to {groups - 1}"
        )
