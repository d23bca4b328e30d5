"""The variants of steer_add_rms_norm and steer_add, in the order of interleaving."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import expressions
import liger
import torch
from cases import EPS, Case, Dtype, Steering, one_vector, unsteered
from compiled_peers import Compiler
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from variants import (
    COMPILED,
    COMPILED_UNSTEERED,
    EAGER,
    FRESH,
    IDLE,
    INTO,
    LIGER,
    PRE_SUMMED,
    STOCK,
    Bind,
    Call,
    Result,
    Variant,
    calls,
)

from faststeer import ops
from faststeer.ops import reference

Entries = tuple[Tensor | None, Tensor | None, Tensor | None]
EntriesOf = Callable[[Steering], Entries]


def no_entries(inputs: Steering) -> Entries:
    return None, None, None


def own_entries(inputs: Steering) -> Entries:
    return inputs.entries


def summed(inputs: Steering) -> Entries:
    """Sum the first row's entries beforehand, in float32, for all rows alike."""
    vectors, index, coefficient = inputs.entries
    s = reference.steering_sum(vectors, index[:1], coefficient[:1], 1, torch.float32)
    return s, torch.zeros_like(index[:1, :1]), torch.ones_like(coefficient[:1, :1])


def norm_variants(case: Case, inputs: Steering, compiler: Compiler) -> dict[str, Variant]:
    def expected(entries_of: EntriesOf, given: Steering) -> Result:
        return reference.steer_add_rms_norm(*_of_norm(given), EPS, *entries_of(given))

    def peer(work: Case, entries_of: EntriesOf, bind: Bind, kernels: int | None = None) -> Variant:
        return Variant(work, bind, partial(expected, entries_of), _tolerance(case), kernels)

    def own(work: Case, entries_of: EntriesOf, bind: Bind | None = None) -> Variant:
        def arguments(given: Steering) -> tuple[object, ...]:
            return (*_of_norm(given), EPS, *entries_of(given))

        fresh = calls(ops.steer_add_rms_norm, arguments)
        return Variant(work, bind or fresh, partial(expected, entries_of))

    idle = unsteered(case)
    variants = {STOCK: peer(idle, no_entries, _stock_norm)}
    if case.vectors:
        variants[EAGER] = peer(one_vector(case, case.dtype), summed, _eager_norm)
        if made := compiler.made(COMPILED, case, case, expressions.steered_norm, inputs):
            bind = calls(made.function, tuple)
            variants[COMPILED] = peer(case, own_entries, bind, made.kernels)
    if made := compiler.made(
        COMPILED_UNSTEERED, case, idle, expressions.unsteered_norm, _of_norm(inputs)
    ):
        bind = calls(made.function, _of_norm)
        variants[COMPILED_UNSTEERED] = peer(idle, no_entries, bind, made.kernels)
    if fused := liger.fused_add_norm(case, inputs, compiler):
        variants[LIGER] = peer(idle, no_entries, calls(fused, _of_norm))
    variants[FRESH] = own(case, own_entries)
    variants[INTO] = own(case, own_entries, _norm_into)
    if case.vectors:
        variants[IDLE] = own(idle, no_entries)
        variants[PRE_SUMMED] = own(one_vector(case, Dtype.float32), summed)
    return variants


def add_variants(case: Case, inputs: Steering, compiler: Compiler) -> dict[str, Variant]:
    def expected(entries_of: EntriesOf, given: Steering) -> Result:
        return reference.steer_add(given.x, given.residual, *entries_of(given))

    def peer(work: Case, entries_of: EntriesOf, bind: Bind, kernels: int | None = None) -> Variant:
        return Variant(work, bind, partial(expected, entries_of), _tolerance(case), kernels)

    variants = {STOCK: peer(unsteered(case), no_entries, calls(torch.add, _of_add))}
    if case.vectors:
        variants[EAGER] = peer(one_vector(case, case.dtype), summed, _eager_add)
        if made := compiler.made(
            COMPILED, case, case, expressions.steered_add, _of_steered_add(inputs)
        ):
            bind = calls(made.function, _of_steered_add)
            variants[COMPILED] = peer(case, own_entries, bind, made.kernels)
    fresh = calls(ops.steer_add, _of_steered_add)
    variants[FRESH] = Variant(case, fresh, partial(expected, own_entries))
    return variants


def _tolerance(case: Case) -> float:
    return 4 * torch.finfo(case.dtype.element).eps


def _of_norm(inputs: Steering) -> tuple[Tensor, Tensor, Tensor]:
    return inputs.x, inputs.residual, inputs.weight


def _of_add(inputs: Steering) -> tuple[Tensor, Tensor]:
    return inputs.residual, inputs.x


def _of_steered_add(inputs: Steering) -> tuple[Tensor | None, ...]:
    return inputs.x, inputs.residual, *inputs.entries


def _addend(inputs: Steering) -> Tensor:
    return summed(inputs)[0][0].to(inputs.residual.dtype)


def _stock_module(weight: Tensor) -> LlamaRMSNorm:
    norm = LlamaRMSNorm(len(weight), EPS)
    norm.weight = torch.nn.Parameter(weight)
    return norm


def _stock_norm(inputs: Steering) -> Call:
    x, residual, weight = _of_norm(inputs)
    norm = _stock_module(weight)

    def call() -> Result:
        h = residual + x
        return norm(h), h

    return call


def _eager_norm(inputs: Steering) -> Call:
    x, residual, weight = _of_norm(inputs)
    norm, addend = _stock_module(weight), _addend(inputs)

    def call() -> Result:
        h = residual + x
        h.add_(addend)
        return norm(h), h

    return call


def _eager_add(inputs: Steering) -> Call:
    x, residual, addend = inputs.x, inputs.residual, _addend(inputs)
    return lambda: (residual + x).add_(addend)


def _norm_into(inputs: Steering) -> Call:
    # NaN-filled, so that elements the op does not write are detected.
    out, residual_out = (torch.full_like(inputs.residual, torch.nan) for _ in range(2))
    arguments = (*_of_norm(inputs), EPS, *inputs.entries, None, 0.0, out, residual_out)
    write = partial(ops.steer_add_rms_norm_out, *arguments)

    def call() -> Result:
        write()
        return out, residual_out

    return call
