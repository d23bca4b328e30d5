"""Moments of the residual stream, accumulated while a model runs: no activations are stored."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NoReturn

import torch
from torch import Tensor, nn

from faststeer.extraction.moments import Moments
from faststeer.patching.patch import temporarily_patched
from faststeer.patching.patched import Patched
from faststeer.steering.plan import Plan
from faststeer.steering.positions import Positions, scope_of
from faststeer.steering.token_positions import BatchTokens
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.arguments import chosen_layers
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.sites import SITES, Site


@contextmanager
def capture(
    model: nn.Module,
    *,
    layers: str | int | Sequence[int] = "all",
    site: str = "resid_post",
    positions: Positions = "all",
    **unknown: NoReturn,
) -> Iterator[dict[int, Moments]]:
    """Accumulate the moments of the residual stream over all forward passes inside the context.

    Yields layer -> `Moments` of one group. Each token of `positions` counts once, padding never;
    activations include the active steering. Captures of several sites may be nested. Run forward
    passes without gradients: with checkpointing a layer runs twice, and its tokens count twice.
    Call the decoder (``model.model``) where logits are not needed.

    Args:
        model: a model that `patch` accepts; an unpatched one is patched inside the context.
        layers: 0-based decoder layers, or "all".
        site: ``resid_pre``, ``resid_mid`` or ``resid_post``.
        positions: which tokens, as for `Patched.steer`: "all" but padding, "last" of the prompt,
            "generated", a range, a function, ... For texts that end in an answer, set
            `Patched.prompt_lengths` and choose "generated" to capture the answers.
        unknown: nothing; other keywords are refused.

    Raises:
        ValueError: a layer out of range, or a site that is unknown or cannot be read; in a forward
            pass, a layer that runs several times.
    """
    refuse_unknown("capture", unknown, "layers")
    with temporarily_patched(model) as patched:
        collector = _Collector(patched, chosen_layers(layers, patched.num_layers), site, positions)
        with collector.active():
            yield collector.moments
        collector.warn()


class _Collector:
    """The state of one capture: chosen tokens of the current forward pass, moments by layer."""

    def __init__(
        self, patched: Patched, layers: list[int], site: str, positions: Positions
    ) -> None:
        """Check the arguments, which are those of `capture`, as are the errors."""
        if site not in SITES:
            raise ValueError(f"site {site!r} is unknown; expected one of {', '.join(SITES)}")
        self.plan: Plan = patched.plan
        self.decoder = patched.signature.decoder
        self.scope = scope_of(positions)
        if self.scope is not None:
            patched.signature.require_past("which tokens count")
        self.sites = {layer: Site.of(layer, site) for layer in layers}
        if not self.plan.tables.devices.keys() >= set(self.sites.values()):
            raise ValueError(f"{site} of a {type(patched.decoder).__name__} cannot be read")
        self.moments = {
            layer: Moments(patched.hidden_size, device=self.plan.tables.devices[site])
            for layer, site in self.sites.items()
        }
        self.group = torch.zeros(0, dtype=torch.int32)  # [B, T] per pass: 0 counts, -1 does not
        self.updated: set[int] = set()  # layers that ran in this forward pass
        self.sequences = 0
        self.empty: Tensor | int = 0  # sequences of padding alone

    @contextmanager
    def active(self) -> Iterator[None]:
        """Receive the hidden states of every forward pass inside the context."""
        with ExitStack() as stack:
            stack.enter_context(self.plan.watching(self._begin, self.scope))
            for layer, site in self.sites.items():
                stack.enter_context(self.plan.reading(site, partial(self._read, layer)))
            yield

    def warn(self) -> None:
        """Warn about sequences that contained only padding."""
        if empty := int(self.empty):
            warnings.warn(
                f"{empty} of {self.sequences} sequences contained only padding; none of their "
                "tokens was counted",
                FaststeerWarning,
                stacklevel=5,
            )

    def _begin(self, batch: BatchTokens) -> None:
        """Choose the tokens of a forward pass before its first layer runs."""
        if self.scope is None:
            real = chosen = batch.real()
        else:
            tokens = batch.positions()
            real = tokens.positions >= 0
            chosen = self.scope.mask(tokens) & real
        self.updated.clear()
        self.sequences += len(real)
        self.empty = self.empty + (~real.any(1)).sum()
        self.group = torch.where(chosen, 0, -1).to(torch.int32)

    def _read(self, layer: int, hidden: Tensor) -> None:
        if not torch.compiler.is_compiling() and self.plan.forward.guard.in_forward:
            # Outside of a forward pass, a layer that runs again is a recomputed checkpoint.
            if layer in self.updated:
                raise ValueError(
                    f"a {self.decoder} runs layer {layer} several times per forward "
                    "pass, so each token would count several times; choose layers= that run once"
                )
            self.updated.add(layer)
        moments = self.moments[layer]
        moments.update(hidden.to(moments.device), self.group.to(moments.device))
