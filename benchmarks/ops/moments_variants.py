"""The variants of accumulate_moments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import expressions
import torch
from cases import Case, Moments, copied
from compiled_peers import Compiler
from variants import COMPILED, FRESH, STOCK, Call, Result, Variant, calls

from faststeer import ops
from faststeer.ops import reference

TOLERANCE = 1e-5  # for sums of many float32 values


def moment_variants(case: Case, inputs: Moments, compiler: Compiler) -> dict[str, Variant]:
    """Return the variants; peers do not support groups and treat all rows as one group."""

    def peer(function: Callable[..., Result], kernels: int | None = None) -> Variant:
        return Variant(ungrouped, calls(function, _rows), _expected_of_peers, TOLERANCE, kernels)

    ungrouped = replace(case, groups=1)
    variants = {STOCK: peer(expressions.var_mean)}
    if made := compiler.made(COMPILED, case, ungrouped, expressions.var_mean, _rows(inputs)):
        variants[COMPILED] = peer(made.function, made.kernels)
    variants[FRESH] = Variant(case, _own, _expected, TOLERANCE)
    return variants


def _rows(inputs: Moments) -> tuple[torch.Tensor]:
    return (inputs.x,)


def _own(inputs: Moments) -> Call:
    def call() -> Result:
        ops.accumulate_moments(*inputs)
        return inputs.count, inputs.mean, inputs.m2

    return call


def _expected_of_peers(inputs: Moments) -> Result:
    return torch.var_mean(inputs.x.double(), 0, correction=0)


def _expected(inputs: Moments) -> Result:
    own = copied(inputs)
    reference.accumulate_moments(*own)
    return own.count, own.mean, own.m2
