"""Warn of doses that hardly change the residual stream, exceed it many times, or add up to it.

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

import torch
from torch import Tensor, nn

from faststeer.steering.device_tables import Entries
from faststeer.steering.intervention import Intervention
from faststeer.steering.tables import Tables
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.sites import Site

LEAST, MOST = 0.01, 10.0  # times the stream's norm
# Of the sum over a vector's layers: on SmolLM2 perplexity is at most 4 times the unsteered one up
# to 0.55, and from 0.7 on at least 5 times, mostly tens; docs/decisions.md has the measurement.
MOST_TOGETHER = 0.7
_FEWEST = 4  # tokens from which a norm is taken
_SAMPLE = 256  # tokens, of which the median norm is known well enough


def warn_of_zeros(name: str, intervention: Intervention) -> None:
    """Warn of added directions that are zero; the warning points three frames up."""
    zeros = [str(n) for n in intervention.factors if not intervention.vector.directions[n].any()]
    if intervention.mode == "add" and zeros:
        warnings.warn(
            f"vector {name!r} is zero at layer{'s' * (len(zeros) > 1)} {', '.join(zeros)}: adding "
            "it changes nothing there",
            FaststeerWarning,
            stacklevel=4,
        )


class Doses:
    """Measures the doses of a model's interventions, by readers at their sites."""

    def __init__(self, tables: Tables) -> None:
        """Start with nothing to measure."""
        self.tables = tables
        self.judged = True  # False where a program steers with doses that it means
        self.due = False  # all that most forwards look at
        self._pending: dict[str, Intervention] = {}
        self._measured: dict[str, Intervention] = {}  # by the forward that is running
        self._readers: list[tuple[Site, partial[None]]] = []
        self._found: dict[Site, tuple[Tensor, Tensor]] = {}
        self._streams: dict[Site, list[float]] = {}  # of sites that were measured
        self._dtype = torch.float32

    def expect(self, name: str, intervention: Intervention) -> None:
        """Measure the vector in the next forward, unless this magnitude of it was before."""
        size = abs(intervention.coefficient)
        self._pending.pop(name, None)
        if not (self.judged and intervention.mode == "add" and size) or size in intervention.judged:
            return
        known = intervention.sites() <= self._streams.keys()  # of an earlier vector or coefficient
        if known and self._dtype != torch.float16:  # which may overflow with this one
            intervention.judged.add(size)
            _judge(name, intervention, self._streams, self._dtype)
        else:
            self._pending[name] = intervention
            self.due = True

    def measurable(self, given: Tensor) -> bool:
        """Return whether a forward over `given` has numbers to read."""
        return not (
            self.tables.forward.capturing
            or torch._C._get_tracing_state() is not None
            or type(given) is not Tensor
            or given.is_meta
        )

    def begin(
        self, active: Mapping[str, Intervention], decoder: nn.Module, real: Tensor, first: bool
    ) -> None:
        """Read the steered sites in the forward that starts.

        Args:
            active: the interventions, by name.
            decoder: the module that runs.
            real: ``[B, T]`` bool, the tokens that are not padding.
            first: the forward holds the first token of each sequence, which is left out: many
                models make it an attention sink, whose norm is a hundred times the others'.
        """
        if first:
            real = real & (real.cumsum(1) > 1)
            if int(real.sum()) < _FEWEST:
                return
        self._measured = {n: s for n, s in self._pending.items() if active.get(n) is s}
        self._pending, self.due = {}, bool(self._measured)
        if any(map(_compiled, decoder.modules())) or self.tables.learned:
            self._measured, self.due = {}, False  # a reader would recompile them
        chosen = real.flatten().nonzero()[:, 0]
        for site in {site for one in self._measured.values() for site in one.sites()}:
            reader = partial(self._read, site, chosen, real.shape)
            self.tables[site].readers.append(reader)
            self._readers.append((site, reader))

    def end(self) -> None:
        """Remove the readers of the forward that ends, and warn of what they found."""
        self._stop()
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

    def interrupt(self) -> None:
        """Stop reading: the forward has ended or failed; the next one measures what is left."""
        if self._readers:
            self._stop()
            self._pending = self._measured | self._pending
            self._measured, self._found = {}, {}
            self.due = bool(self._pending)

    def cancel(self) -> None:
        """Give up what was to be measured: this decoder's stream cannot be read."""
        self._stop()
        self._measured, self.due = {}, False

    def _stop(self) -> None:
        for site, reader in self._readers:
            self.tables[site].readers.remove(reader)
        self._readers = []

    def _read(self, site: Site, real: Tensor, shape: torch.Size, hidden: Tensor) -> None:
        """Keep the median norm of the stream before the addition, and whether it is finite.

        A looped layer comes here several times; its first pass counts. Where more is done than
        adding the stream before it is not known.
        """
        entries = self.tables[site].folded_entries()
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
    """Return whether a part of a model is compiled on its own."""
    return getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")


def _additions(entries: Entries, tokens: Tensor, count: int) -> Tensor:
    """Return what is added to some of `count` tokens, ``[N, H]`` float32."""
    vectors, index = entries[:2]
    if vectors is None or index is None:
        return torch.zeros(1, 1, device=tokens.device)
    own = index[tokens * len(index) // count].long()  # each of its lines is of as many tokens
    return (vectors[own.clamp(min=0)] * (own >= 0)[..., None]).sum(1)


def _judge(
    name: str, one: Intervention, streams: Mapping[Site, list[float]], dtype: torch.dtype
) -> None:
    """Warn of a dose that overflows, is too strong at a layer or over all, or too weak at all."""
    shares: list[tuple[float, int, float]] = []
    for layer, coefficient in one.by_layer().items():
        norm = float(one.vector.directions[layer].norm())
        for site in one.sites_of(layer):
            stream, finite = streams[site]
            if not finite:
                ends = " (float16 ends at 65504)" if dtype == torch.float16 else ""
                _warn(
                    f"the residual stream is not finite where vector {name!r} is added, at layer "
                    f"{layer}{ends}: the vector's norm is {norm:.3g}, its coefficient "
                    f"{coefficient:.3g}, the stream's median norm {stream:.3g}; take a smaller "
                    "coefficient, or bfloat16"
                )
                return
            if coefficient and norm and stream:
                shares.append((abs(coefficient) * norm / stream, layer, stream))
    if not shares:
        return
    share, layer, stream = max(shares)
    together = _sum_of_shares(one, streams)
    if share <= MOST and len(shares) > 1 and together > MOST_TOGETHER:
        # No fitting coefficient is named: the stream of later layers holds what earlier ones added.
        _warn(
            f"vector {name!r} is added at {len(shares)} layers, together {together:.0%} of the "
            f"residual stream's norm; over {MOST_TOGETHER:.0%} mostly breaks text: steer fewer "
            "layers with layers=, or take a smaller coefficient"
        )
        return
    if LEAST <= share <= MOST:
        return
    norm, coefficient = float(one.vector.directions[layer].norm()), one.by_layer()[layer]
    why = (
        f"over {MOST:g} replaces what the model computed"
        if share > MOST
        else f"under {LEAST:g}, here at every layer, has almost no effect"
    )
    _warn(
        f"vector {name!r} at layer {layer}: its norm {norm:.3g} times the coefficient "
        f"{coefficient:.3g} is {share:.2g} times the residual stream's median norm {stream:.3g}; "
        f"{why}"
    )


def _sum_of_shares(one: Intervention, streams: Mapping[Site, list[float]]) -> float:
    """Return the norm of what all layers add, each relative to the stream's norm there.

    Similar directions add up; unrelated ones, which disturb less, add up as squares do.
    """
    total = torch.zeros(one.vector.hidden_size)
    for layer, coefficient in one.by_layer().items():
        for site in one.sites_of(layer):
            if stream := streams[site][0]:
                total += one.vector.directions[layer] * (coefficient / stream)
    return float(total.norm())


def _warn(message: str) -> None:
    warnings.warn(message, FaststeerWarning, stacklevel=2)
