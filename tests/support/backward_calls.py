"""Calls of the backward ops, and how far from float64 their results may be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from faststeer.ops import reference

EPS = 1e-5
# Roundings of the largest term that a result may be off by; see `BackwardCall.require`. A sum of
# 64 rows in float32 has that many roundings, of which most cancel.
ROUNDINGS = {"grad_h": 4, "grad_x": 4, "grad_weight": 8, "grad_vectors": 8, "grad_coefficient": 8}
NAMES = tuple(ROUNDINGS)


@dataclass
class BackwardCall:
    """The arguments of steer_add_rms_norm_backward, ``[N, H]``; without grad_out of steer_add's."""

    grad_out: Tensor | None
    grad_residual: Tensor | None
    h: Tensor | None
    weight: Tensor | None
    inverse_rms: Tensor | None
    weight_offset: float = 0.0
    vectors: Tensor | None = None
    index: Tensor | None = None
    coefficient: Tensor | None = None

    @property
    def gradient(self) -> Tensor:
        found = self.grad_residual if self.grad_out is None else self.grad_out
        assert found is not None
        return found

    def exact(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return gradients in float64, and the sums of their terms' magnitudes."""
        return self._gradients(magnitudes=False), self._gradients(magnitudes=True)

    def _gradients(self, magnitudes: bool) -> dict[str, Tensor]:
        def wide(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            return tensor.double().abs() if magnitudes else tensor.double()

        out, beside, h = (wide(t) for t in (self.grad_out, self.grad_residual, self.h))
        weight, r, vectors = wide(self.weight), wide(self.inverse_rms), wide(self.vectors)
        coefficient = wide(self.coefficient)
        entries = (vectors, self.index, coefficient)
        if vectors is None:
            entries = (None, None, None)
        if out is None:
            found = reference.steer_add_backward(beside, *entries, True, True)
            return dict(zip(NAMES[3:], found, strict=True))
        if magnitudes:  # every difference of the formula becomes a sum
            y, scale = h * r[:, None], (self.weight_offset + self.weight.double()).abs()
            g = out * scale
            grad_h = r[:, None] * (g + y * (g * y).mean(-1, keepdim=True))
            grad_h = grad_h if beside is None else grad_h + beside
            learned = (torch.empty(0), torch.empty(0))
            if vectors is not None:
                learned = reference.entry_grads(grad_h, *entries)
            found = (grad_h, grad_h, (out * y).sum(0), *learned)
        else:
            arguments = (out, beside, h, weight, r, self.weight_offset, *entries)
            found = reference.steer_add_rms_norm_backward(
                *arguments, torch.float64, True, True, True, True
            )
        return dict(zip(NAMES, found, strict=True))

    def require(self, found: dict[str, Tensor]) -> dict[str, float]:
        """Assert that results are as near as they have to be; return how near, in roundings."""
        exact, magnitudes = self.exact()
        errors = {}
        for name, result in found.items():
            assert result.shape == exact[name].shape, name
            error = (result.double() - exact[name]).abs()
            error = (error - half_ulp(exact[name], result.dtype)).clamp(min=0)
            allowed = ROUNDINGS[name] * 2**-24 * magnitudes[name] + 1e-44
            if result.numel() > 0:
                errors[name] = float((error / (allowed / ROUNDINGS[name])).max())
            assert (error <= allowed).all(), (name, errors[name])
        return errors


def half_ulp(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what one rounding to `dtype` may cost."""
    bits = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}[dtype]
    smallest = {torch.float32: 2.0**-126, torch.bfloat16: 2.0**-126, torch.float16: 2.0**-14}
    return exact.abs().clamp(min=smallest[dtype]) * 2.0**-bits


def random_call(
    tokens: int,
    hidden: int,
    settings: int,
    entries: int,
    stored: int = 5,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    offset: float = 0.0,
) -> BackwardCall:
    """Return a call with everything in it; without vectors where `entries` is 0."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    h = random(tokens, hidden).to(dtype)
    call = BackwardCall(
        random(tokens, hidden).to(dtype), random(tokens, hidden).to(dtype), h, None, None
    )
    call.weight, call.weight_offset = random(hidden).to(dtype), offset
    call.inverse_rms = reference.inverse_rms(h, EPS)
    if entries > 0:
        call.vectors = random(stored, hidden)
        ids = torch.randint(-1, stored, (settings, entries), generator=generator)
        call.index, call.coefficient = ids.int(), random(settings, entries)
    return call
