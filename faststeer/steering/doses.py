"""Warnings of doses that hardly change the residual stream, or exceed it many times.

What a coefficient means depends on the stream's norm, which differs by two orders of magnitude
between models and layers. It is measured once per vector and magnitude, in the first eager forward
that the vector steers: readers at its sites see the steered stream and take the addition away
again. That forward removes them. Compiled and captured forwards measure nothing, and neither do
rows: their settings are mostly a sweep, which a warning per setting would drown.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from faststeer.steering.device_tables import Entries
from faststeer.steering.intervention import Intervention
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.sites import Site

if TYPE_CHECKING:
    from faststeer.steering.plan import Plan

LEAST, MOST = 0.01, 10.0  # times the stream's norm
_FEWEST = 4  # tokens from which a norm is taken
_SAMPLE = 256  # tokens, of which the median norm is known well enough


def warn_of_zeros(name: str, steered: Intervention) -> None:
    """Warn of directions of zeros that are to be added; three frames up."""
    zeros = [str(n) for n in steered.factors if not steered.vector.directions[n].any()]
    if steered.mode == "add" and zeros:
        warnings.warn(
            f"vector {name!r} is zero at layer{'s' * (len(zeros) > 1)} {', '.join(zeros)}: adding "
            "it changes nothing there",
            FaststeerWarning,
            stacklevel=4,
        )


class Doses:
    """The vectors of one plan whose dose is to be measured, and the readers that do it."""

    def __init__(self) -> None:
        """Nothing is due."""
        self.judged = True  # False where a program steers with doses that it means
        self.due = False  # forwards look at this alone
        self._pending: dict[str, Intervention] = {}
        self._measured: dict[str, Intervention] = {}  # by the forward that is running
        self._readers: list[tuple[Site, partial[None]]] = []
        self._found: dict[Site, tuple[Tensor, Tensor]] = {}
        self._streams: dict[Site, list[float]] = {}  # of sites that were measured
        self._dtype = torch.float32

    def expect(self, name: str, steered: Intervention) -> None:
        """Measure the vector in the next forward, unless this magnitude of it was before."""
        amount = abs(steered.coefficient)
        self._pending.pop(name, None)
        if not (self.judged and steered.mode == "add" and amount) or amount in steered.judged:
            return
        known = steered.sites() <= self._streams.keys()  # of an earlier vector or coefficient
        if known and self._dtype != torch.float16:  # which may overflow with this one
            steered.judged.add(amount)
            _judge(name, steered, self._streams, self._dtype)
        else:
            self._pending[name] = steered
            self.due = True

    def measurable(self, plan: Plan, given: Tensor) -> bool:
        """Whether a forward over `given` has numbers to read, and the coefficients steer it."""
        return not (
            plan.rows
            or plan.times_off
            or plan.tables.capturing
            or torch._C._get_tracing_state() is not None
            or type(given) is not Tensor
            or given.is_meta
        )

    def begin(self, plan: Plan, decoder: nn.Module, real: Tensor, first: bool) -> None:
        """Read the steered sites in the forward that begins; `real` ``[B, T]``: not padding.

        `first`: it holds the first token of each sequence, which is left out: many models make it
        an attention sink, whose norm is a hundred times the others'.
        """
        if first:
            real = real & (real.cumsum(1) > 1)
            if int(real.sum()) < _FEWEST:
                return
        self._measured = {n: s for n, s in self._pending.items() if plan.steered.get(n) is s}
        self._pending, self.due = {}, bool(self._measured)
        if any(map(_compiled, decoder.modules())) or plan.tables.learned:
            self._measured, self.due = {}, False  # a reader would recompile them
        chosen = real.flatten().nonzero()[:, 0]
        for site in {site for one in self._measured.values() for site in one.sites()}:
            reader = partial(self._read, plan, site, chosen, real.shape)
            plan.tables[site].readers.append(reader)
            self._readers.append((site, reader))

    def end(self, plan: Plan) -> None:
        """Remove the readers of the forward that ends, and warn of what they found."""
        self._stop(plan)
        found, self._found = self._found, {}
        measured, self._measured = self._measured, {}
        self.due = bool(self._pending)
        if not found:
            return
        numbers = torch.stack([torch.stack(own).cpu() for own in found.values()]).tolist()
        self._streams |= dict(zip(found, numbers, strict=True))
        for name, one in measured.items():
            if one.sites() <= self._streams.keys():
                one.judged.add(abs(one.coefficient))
                _judge(name, one, self._streams, self._dtype)

    @property
    def measuring(self) -> bool:
        """Whether the forward that is running is read."""
        return bool(self._readers)

    def interrupt(self, plan: Plan) -> None:
        """Stop reading: the forward has ended, however it did; what it has not measured waits."""
        if self._readers:
            self._stop(plan)
            self._pending = self._measured | self._pending
            self._measured, self._found = {}, {}
            self.due = bool(self._pending)

    def cancel(self, plan: Plan) -> None:
        """Measure nothing of what was to be measured: this decoder's stream cannot be read."""
        self._stop(plan)
        self._measured, self.due = {}, False

    def _stop(self, plan: Plan) -> None:
        for site, reader in self._readers:
            plan.tables[site].readers.remove(reader)
        self._readers = []

    def _read(
        self, plan: Plan, site: Site, real: Tensor, shape: torch.Size, hidden: Tensor
    ) -> None:
        """Keep the median norm that the stream had before the addition, and whether it is finite.

        A looped layer comes here several times; its first pass counts. Where more is done than
        adding the stream before it is not known.
        """
        table = plan.tables[site]
        entries = table.bank.entries(table.at, False)
        if site in self._found or hidden.shape[:2] != shape or entries[3] is not None:
            return
        if type(hidden) is not Tensor or hidden.is_meta:
            return
        self._dtype = hidden.dtype
        with torch.no_grad():
            flat, real = hidden.detach().flatten(0, 1), real.to(hidden.device)
            some = real[:: max(1, len(real) // _SAMPLE)]
            before = flat[some].float() - _additions(entries, some, len(flat))
            norms = before.norm(dim=-1)
            norms = norms[norms.isfinite()]
            typical = norms.median() if len(norms) else norms.new_zeros(())
            finite = flat.isfinite().all(-1)[real].all()
            self._found[site] = typical, finite.float()


def _compiled(module: nn.Module) -> bool:
    """Whether a part of a model is compiled on its own."""
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")


def _additions(entries: Entries, tokens: Tensor, count: int) -> Tensor:
    """Return what is added to some of `count` tokens, ``[N, H]`` float32."""
    vectors, ids = entries[:2]
    if vectors is None or ids is None:
        return torch.zeros(1, 1, device=tokens.device)
    own = ids[tokens * len(ids) // count].long()  # each line of ids is of as many tokens
    return (vectors[own.clamp(min=0)] * (own >= 0)[..., None]).sum(1)


def _judge(
    name: str, one: Intervention, streams: Mapping[Site, list[float]], dtype: torch.dtype
) -> None:
    """Warn of a dose that overflows, is too strong at a layer, or too weak at every layer."""
    shares: list[tuple[float, int, float]] = []
    for layer, weight in one.weights().items():
        norm = float(one.vector.directions[layer].norm())
        for site in one.sites_of(layer):
            stream, finite = streams[site]
            if not finite:
                ends = " (float16 ends at 65504)" if dtype == torch.float16 else ""
                _warn(
                    f"the residual stream is not finite where vector {name!r} is added, at layer "
                    f"{layer}{ends}: the vector's norm is {norm:.3g}, its coefficient "
                    f"{weight:.3g}, the stream's median norm {stream:.3g}; take a smaller "
                    "coefficient, or bfloat16"
                )
                return
            if weight and norm and stream:
                shares.append((abs(weight) * norm / stream, layer, stream))
    if not shares:
        return
    share, layer, stream = max(shares)
    if LEAST <= share <= MOST:
        return
    norm, weight = float(one.vector.directions[layer].norm()), one.weights()[layer]
    why = (
        f"over {MOST:g} replaces what the model computed"
        if share > MOST
        else f"under {LEAST:g}, here at every layer, has almost no effect"
    )
    _warn(
        f"vector {name!r} at layer {layer}: its norm {norm:.3g} times the coefficient {weight:.3g} "
        f"is {share:.2g} times the residual stream's median norm {stream:.3g}; {why}"
    )


def _warn(message: str) -> None:
    warnings.warn(message, FaststeerWarning, stacklevel=2)
