"""The ops in plain PyTorch, as input to torch.compile."""

from __future__ import annotations

import torch
from cases import EPS
from torch import Tensor

from faststeer.ops import reference

# reference.steering_sum, compiled, is up to 20 % slower: it also tests for absent entries.


def steered_add(
    x: Tensor, residual: Tensor, vectors: Tensor, index: Tensor, coefficient: Tensor
) -> Tensor:
    s = (coefficient[:, :, None] * vectors[index].float()).sum(1)
    if 1 < len(s) < len(residual):  # one row of the index per sequence
        s = s[:, None].expand(-1, len(residual) // len(s), -1).reshape(residual.shape)
    return ((residual.float() + x.float()) + s).to(residual.dtype)


def steered_norm(
    x: Tensor, residual: Tensor, weight: Tensor, *entries: Tensor
) -> tuple[Tensor, Tensor]:
    h = steered_add(x, residual, *entries)
    return reference.rms_norm(h, weight, EPS), h


def unsteered_norm(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    h = (residual.float() + x.float()).to(residual.dtype)
    return reference.rms_norm(h, weight, EPS), h


def var_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.var_mean(x.float(), 0, correction=0)
