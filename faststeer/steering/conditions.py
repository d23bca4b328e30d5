"""Conditions, `when=`: steer only the sequences whose prompt meets one.

Conditional activation steering after Lee et al. 2024 (CAST, arXiv 2409.05907), section 3.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from faststeer.utils.html_facts import html_facts
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True, eq=False, repr=False)
class Condition:
    """A condition that `when` made: `direction` ``[H]`` float32, of `vector`, is read at `site`."""

    direction: Tensor
    site: Site
    threshold: float
    above: bool
    vector: SteeringVector

    def __repr__(self) -> str:
        """Return what is compared, and where."""
        return f"when({self.in_words})"

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        return html_facts("Condition", {"when": self.in_words})

    @property
    def in_words(self) -> str:
        """What is compared: "cosine with 'v' at layer 15 (resid_post) > 0.1"."""
        where = f"layer {self.site.layer} ({self.site.kind})"
        sign = ">" if self.above else "<"
        return f"cosine with {self.vector.name!r} at {where} {sign} {self.threshold:g}"

    def require_fitting(
        self, sites: Iterable[Site], known: Container[Site], hidden_size: int
    ) -> None:
        """Raise ValueError where it is decided nowhere, or too late for some of `sites`."""
        if self.site not in known or self.direction.numel() != hidden_size:
            raise ValueError(
                f"the condition is read at {self.site.kind} of layer {self.site.layer}, of size "
                f"{self.direction.numel()}; this model has no such site, or size {hidden_size}"
            )
        self.require_before(sites)

    def require_before(self, sites: Iterable[Site]) -> None:
        """Raise ValueError where it is decided too late for some of `sites`."""
        first = min(sites, key=lambda site: site.depth)
        if self.site.depth >= first.depth:
            raise ValueError(
                f"the condition is decided at {self.site.kind} of layer {self.site.layer}, too "
                f"late for {first.kind} of layer {first.layer}: steer later layers, or read it at "
                "an earlier one"
            )

    def direction_on(self, device: torch.device) -> Tensor:
        """Return its direction on a device, to be kept: copied once and not per step."""
        direction = self.direction.to(device)
        torch._dynamo.mark_static_address(direction)  # as DeviceTables
        return direction

    def holds(self, hidden: Tensor, prompt: Tensor, direction: Tensor) -> Tensor:
        """Return which sequences meet it, ``[B]`` bool.

        `hidden`: ``[B, T, H]``. `prompt`: ``[B, T]`` bool, the prompts' tokens.
        `direction`: as `direction_on` returns it, on their device.
        """
        chosen = torch.where(prompt[..., None], hidden.float(), 0.0)
        mean = chosen.sum(1) / prompt.sum(1, keepdim=True).clamp(min=1)
        found = torch.cosine_similarity(mean, direction[None], dim=1)
        return found > self.threshold if self.above else found < self.threshold


def when(
    vector: SteeringVector,
    *,
    layer: int | None = None,
    above: float | None = None,
    below: float | None = None,
    **unknown: NoReturn,
) -> Condition:
    """Make a condition for `steer`: only sequences that meet it are steered, prompt and answer.

    A sequence meets it where the mean of the residual stream over the prompt's tokens, at the
    vector's site of one layer, has a cosine similarity with the vector's direction above, or below,
    a threshold. It is decided in the forward of the prompt, for all later layers, and holds until
    the next prompt.

    Args:
        vector: the condition vector.
        layer: where it is read; may be left out where the vector has one layer.
        above: the threshold, -1 to 1, that the similarity must exceed; or
        below: the threshold that it must not reach.
        unknown: nothing; other keywords are refused.

    Raises:
        TypeError: not a SteeringVector, or a threshold that is not a number.
        ValueError: none or both of `above` and `below`, one that no cosine reaches, or a layer that
            the vector lacks; a direction of zeros.
    """
    refuse_unknown("when", unknown, "layer")
    if not isinstance(vector, SteeringVector):
        raise TypeError(f"when() got a {type(vector).__name__}; expected a SteeringVector")
    if (above is None) == (below is None):
        raise ValueError("when() takes either above= or below=, a cosine similarity")
    threshold = above if above is not None else below
    assert threshold is not None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(f"when() got a {type(threshold).__name__}; expected a cosine similarity")
    if not -1 <= threshold <= 1:
        raise ValueError(f"when() got the threshold {threshold}; a cosine is from -1 to 1")
    if layer is None:
        if len(vector.layers) > 1:
            raise ValueError(f"{vector.name!r} has layers {vector.layers}; say which with layer=")
        layer = vector.layers[0]
    direction = vector.at(layer).normalized().directions[layer]
    site = Site.of(layer, vector.site)
    return Condition(direction, site, float(threshold), above is not None, vector)
