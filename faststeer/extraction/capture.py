"""Statistics of the residual stream, gathered while a model runs: nothing is stored, no hooks."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

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
from faststeer.vectors.sites import SITES, Site


@contextmanager
def capture(
    model: nn.Module,
    *,
    layers: str | int | Sequence[int] = "all",
    site: str = "resid_post",
    positions: Positions = "all",
) -> Iterator[dict[int, Moments]]:
    """Inside, every forward feeds the moments of the chosen layers, {layer: `Moments`}, in one
    group.

    The fused layers hand over what they computed, steered where something steers; each token of
    `positions` counts once, padding never. Several captures may be nested, for several sites.
    Run forwards without gradients: with checkpointing a layer runs twice, and counts twice. Call
    the decoder (``model.model``) where logits are not needed.

    Args:
        model: a model that `patch` accepts; one that is not patched is, for as long as this lasts.
        layers: 0-based decoder layers, or "all".
        site: ``resid_pre``, ``resid_mid`` or ``resid_post``.
        positions: which tokens, as for `Patched.steer`: "all" but padding, "last" of the prompt,
            "generated", a range, a function, ... For the answers of texts that end in one, set
            `Patched.prompt_lengths` and take "generated".

    Raises:
        ValueError: a layer out of range, or a site that is unknown or cannot be read. A forward
            raises it where a layer runs several times per pass.
    """
    with temporarily_patched(model) as patched:
        feed = Feed(patched, chosen_layers(layers, patched.num_layers), site, positions)
        with feed.active():
            yield feed.moments
        feed.warn()


class Feed:
    """What readers and a plan's watcher share in one capture."""

    def __init__(
        self, patched: Patched, layers: list[int], site: str, positions: Positions
    ) -> None:
        """Arguments and errors as for `capture`."""
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
            layer: Moments(patched.hidden_size, device=self.plan.tables.devices[at])
            for layer, at in self.sites.items()
        }
        self.group = torch.zeros(0, dtype=torch.int32)  # [B, T] of the forward: 0 counts, -1 not
        self.fed: set[int] = set()  # layers that the forward has passed
        self.sequences = 0
        self.empty: Tensor | int = 0

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, gather from every forward at every site."""
        with ExitStack() as stack:
            stack.enter_context(self.plan.watching(self._begin))
            for layer, site in self.sites.items():
                stack.enter_context(self.plan.reading(site, partial(self._read, layer)))
            yield

    def warn(self) -> None:
        """Say how many sequences held nothing but padding."""
        if empty := int(self.empty):
            warnings.warn(
                f"{empty} of {self.sequences} sequences held nothing but padding; no token of "
                "theirs was counted",
                FaststeerWarning,
                stacklevel=5,
            )

    def _begin(self, batch: BatchTokens) -> None:
        """Choose the tokens of the forward that starts."""
        if self.scope is None:
            real = chosen = batch.real()
        else:
            tokens = batch.positions()
            real = tokens.positions >= 0
            chosen = self.scope.mask(tokens) & real
        self.fed.clear()
        self.sequences += len(real)
        self.empty = self.empty + (~real.any(1)).sum()
        self.group = torch.where(chosen, 0, -1).to(torch.int32)

    def _read(self, layer: int, hidden: Tensor) -> None:
        if not torch.compiler.is_compiling() and self.plan.forward.guard.in_forward:
            if layer in self.fed:  # outside of a forward it is a checkpoint that is recomputed
                raise ValueError(
                    f"a {self.decoder} runs layer {layer} several times per forward "
                    "pass, and each token would count as often; choose layers= that run once"
                )
            self.fed.add(layer)
        own = self.moments[layer]
        own.update(hidden.to(own.device), self.group.to(own.device))
