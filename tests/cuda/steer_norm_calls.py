"""Calls of steer_add_rms_norm on the kernels, each checked against the specification."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from kernels import DTYPES, Emulator, Started
from layouts import ALIGNED, LAYOUTS, laid_out, storage_of
from steering_modes import MODES, error_bound
from torch import Tensor
from ulps import ulps

from faststeer.ops import reference

OUTPUT_ULPS = {torch.float32: 4, torch.bfloat16: 1, torch.float16: 1}
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
EPS = 1e-5


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Zeros differ by sign; any NaN is as good as another."""
    bits = [t.masked_fill(t.isnan(), torch.nan).view(BITS[t.dtype]) for t in (a, b)]
    return torch.equal(*bits)


@dataclass
class Call:
    """Operands of one call, as the kernels get them."""

    x: Tensor | None
    residual: Tensor
    weight: Tensor | None
    vectors: Tensor | None
    index: Tensor | None
    coefficient: Tensor | None
    out: Tensor | None
    residual_out: Tensor
    modes: Tensor | None = None
    weight_offset: float = 0.0

    def run(self, emulator: Emulator, **launch: int) -> list[Started]:
        """Call the kernels and compare what they did with the specification."""
        operands = vars(self)
        wanted, broken = self._residual()
        tensors = [value for value in operands.values() if isinstance(value, Tensor)]
        storages = {t.untyped_storage().data_ptr(): storage_of(t) for t in tensors}
        before = {address: storage.clone() for address, storage in storages.items()}

        started = emulator.steer_norm(eps=EPS, **operands, **launch)

        h, out = self.residual_out.clone(), None if self.out is None else self.out.clone()
        self._require_residual(h, wanted, broken)
        if out is not None:
            weight = self.weight.double()
            exact = reference.rms_norm(h[~broken].double(), weight, EPS, self.weight_offset)
            assert ulps(out[~broken], exact.to(h.dtype)) <= OUTPUT_ULPS[h.dtype]
            assert out[broken].isnan().all()
        # Put back what was there: then nothing must have changed anywhere.
        for result in (self.residual_out, self.out):
            if result is not None:
                old = before[result.untyped_storage().data_ptr()].view(result.dtype)
                result.copy_(old.as_strided(result.shape, result.stride(), result.storage_offset()))
        for address, storage in storages.items():
            assert torch.equal(storage, before[address])
        return started

    def _residual(self) -> tuple[Tensor, Tensor]:
        """The specification's residual, of modes in float64, and which rows have an id that no
        vector has."""
        tokens = len(self.residual)
        broken = torch.zeros(tokens, dtype=torch.bool)
        if self.vectors is None or self.index.numel() == 0 or len(self.vectors) == 0:
            return reference.steer_add(self.x, self.residual), broken
        known = (self.index >= -1) & (self.index < len(self.vectors))
        index = torch.where(known, self.index, -1)
        x, residual = self.x, self.residual
        if self.modes is not None:
            x, residual = None if x is None else x.double(), residual.double()
        entries = self.vectors, index, self.coefficient, self.modes
        h = reference.steer_add(x, residual, *entries)
        broken = (~known).any(1).repeat_interleave(tokens // len(self.index))
        return h.masked_fill(broken[:, None], torch.nan), broken

    def _require_residual(self, h: Tensor, wanted: Tensor, broken: Tensor) -> None:
        if wanted.dtype == h.dtype:
            assert same_bits(h, wanted)
            return
        assert h[broken].isnan().all()
        bound = error_bound(self.residual, self.x, self.coefficient, wanted)
        assert ((h.double() - wanted).abs() <= bound)[~broken].all()


class Draw:
    """Random operands, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def values(self, *shape: int, dtype: torch.dtype, layout: tuple[int, int] = (0, 0)) -> Tensor:
        """Normal, with some zeros of both signs."""
        values = torch.randn(*shape, generator=self.generator)
        zero = torch.rand(*shape, generator=self.generator) < 0.1
        return laid_out(torch.where(zero, 0.0 * values, values).to(dtype), layout)

    def ids(self, settings: int, entries: int, stored: int) -> Tensor:
        shape = (settings, entries)
        ids = torch.randint(-1, stored, shape, generator=self.generator)
        return ids.to(torch.int32)

    def coefficients(self, index: Tensor) -> Tensor:
        """NaN where there is no entry."""
        values = torch.randn(*index.shape, generator=self.generator)
        return values.masked_fill(index == -1, torch.nan)


@st.composite
def calls(
    draw: st.DrawFn, hiddens: tuple[int, ...], tokens: tuple[int, ...], entries: tuple[int, ...]
) -> Call:
    make = Draw(draw(st.integers(0, 2**31)))
    hidden, count = draw(st.sampled_from(hiddens)), draw(st.sampled_from(tokens))
    dtype = draw(st.sampled_from(DTYPES))
    tidy = draw(st.booleans())  # so that the packed kernels get their half of the examples
    layouts = st.sampled_from(ALIGNED if tidy else LAYOUTS)
    any_dtype = st.just(dtype) if tidy else st.sampled_from(DTYPES)
    widened = st.sampled_from(DTYPES) if dtype == torch.float32 else any_dtype  # autocast's

    def rows(dtypes: st.SearchStrategy[torch.dtype]) -> Tensor:
        return make.values(count, hidden, dtype=draw(dtypes), layout=draw(layouts))

    residual = rows(st.just(dtype))
    x = rows(widened) if draw(st.booleans()) else None
    weight = out = vectors = index = coefficient = None
    if draw(st.sampled_from((True, True, False))):
        weight = make.values(hidden, dtype=draw(any_dtype), layout=(draw(layouts)[0], 0))
        out = laid_out(torch.full((count, hidden), torch.nan, dtype=dtype), draw(layouts))
        if x is not None and x.dtype == dtype and draw(st.booleans()):
            out = x
    residual_out = laid_out(torch.full((count, hidden), torch.nan, dtype=dtype), draw(layouts))
    if draw(st.booleans()):
        residual_out = residual
    if draw(st.sampled_from((True, True, False))):
        stored, width = draw(st.integers(1, 5)), draw(st.sampled_from(entries))
        lines = draw(st.sampled_from([n for n in range(1, max(count, 1) + 1) if count % n == 0]))
        vectors = make.values(
            stored,
            hidden,
            dtype=draw(st.sampled_from((dtype, torch.float32)) if tidy else any_dtype),
            layout=draw(layouts),
        )
        index = make.ids(lines, width, stored)
        coefficient = make.coefficients(index)
        if index.numel() > 0 and draw(st.sampled_from((True, False, False))):
            index.view(-1)[draw(st.integers(0, index.numel() - 1))] = draw(
                st.sampled_from((stored, -2, 2**31 - 1, -(2**31)))
            )
    offset = draw(st.sampled_from((0.0, 1.0)))
    operands = x, residual, weight, vectors, index, coefficient, out, residual_out
    return Call(*operands, weight_offset=offset)


@st.composite
def calls_with_modes(
    draw: st.DrawFn, hiddens: tuple[int, ...], tokens: tuple[int, ...], entries: tuple[int, ...]
) -> Call:
    """Unit vectors, and coefficients with which no projection makes a row longer."""
    call = draw(calls(hiddens, tokens, entries).filter(lambda call: call.vectors is not None))
    call.vectors.copy_(torch.nn.functional.normalize(call.vectors.float(), dim=1))
    call.coefficient.abs_().clamp_(max=2.0)
    stored = len(call.vectors)
    lines = st.lists(st.sampled_from(MODES), min_size=stored, max_size=stored)
    call.modes = torch.tensor(draw(lines))
    return call
