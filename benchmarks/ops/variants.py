"""Variants: implementations of an op, faststeer's own and its peers'.

"stock" is eager PyTorch unsteered, "eager steered" also adds one vector that was summed
beforehand, like hooks, "torch.compile" does everything the op does. "torch.compile unsteered" and
"Liger unsteered" are fused adds and norms without steering. For moments, "stock" and
"torch.compile" are `torch.var_mean` over all groups as one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from cases import Case, Inputs, copied
from torch import Tensor

STOCK, EAGER = "stock", "eager steered"
COMPILED, COMPILED_UNSTEERED = "torch.compile", "torch.compile unsteered"
LIGER = "Liger unsteered"
PEERS = (STOCK, EAGER, COMPILED, COMPILED_UNSTEERED, LIGER)

FRESH, INTO = "faststeer", "faststeer into"
IDLE, PRE_SUMMED = "faststeer idle", "faststeer pre-summed"
OURS = (FRESH, INTO, IDLE, PRE_SUMMED)

Result = Tensor | tuple[Tensor, ...]
Call = Callable[[], Result]
Bind = Callable[[Any], Call]


@dataclass(frozen=True)
class Variant:
    """Implementation of an op. `work`: the case it actually computes, possibly less than requested.

    Every element has to be correct within a rounding or two or, with `row_tolerance`, every row
    within that fraction of its norm: where terms cancel, a peer that rounds more often may be off
    by any factor in one element.
    """

    work: Case
    bind: Bind
    expected: Callable[[Any], Result]
    row_tolerance: float | None = None
    kernels: int | None = None  # made by torch.compile; one means that everything was fused


def calls(function: Callable[..., Result], arguments_of: Callable[[Any], Any]) -> Bind:
    return lambda inputs: partial(function, *arguments_of(inputs))


def check(name: str, variant: Variant, inputs: Inputs) -> None:
    """Raise AssertionError if the result is wrong."""
    own = copied(inputs)  # some accumulate into a state
    results, truths = _several(variant.bind(own)()), _several(variant.expected(inputs))
    for result, truth in zip(results, truths, strict=True):
        if variant.row_tolerance is None:
            torch.testing.assert_close(result, truth, msg=lambda text: f"{name}: {text}")
        else:
            _require_rows_close(name, result.double(), truth.double(), variant.row_tolerance)


def _several(result: Result) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _require_rows_close(name: str, result: Tensor, truth: Tensor, tolerance: float) -> None:
    distance = torch.linalg.vector_norm(result - truth, dim=-1)
    if not (distance <= tolerance * torch.linalg.vector_norm(truth, dim=-1)).all():  # or NaN
        raise AssertionError(f"{name}: the error of a row exceeds {tolerance:.0e} of its norm")
