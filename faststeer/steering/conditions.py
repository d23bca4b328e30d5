"""Conditions, `when=`: steer only the sequences whose prompt meets one, or the tokens that do.

Conditional activation steering after Lee et al. 2024 (CAST, arXiv 2409.05907), section 3. They
decide once per prompt; a `TokenCondition` decides on each token.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import NoReturn

import torch
from torch import Tensor

from faststeer.utils.html_facts import html_facts
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector

_serial = count()


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


@dataclass(frozen=True, eq=False, repr=False)
class TokenCondition(Condition):
    """A condition that each token meets or not; it holds for `hysteresis` tokens more.

    `key`: under which the tokens that met it are kept, where later ones depend on them.
    """

    hysteresis: int = 0
    key: str = field(default_factory=lambda: f"condition {next(_serial)}")

    @property
    def in_words(self) -> str:
        """What is compared, for which tokens."""
        longer = f", and for {self.hysteresis} tokens more" if self.hysteresis else ""
        return f"a token's {super().in_words}{longer}"

    def met(self, hidden: Tensor, direction: Tensor) -> Tensor:
        """Return which tokens of ``[B, T, H]`` meet it, bool.

        `direction`: as `direction_on` returns it, on their device.
        """
        states = hidden.float()
        norms: Tensor = torch.linalg.vector_norm(states, dim=2)
        norms = norms.clamp(min=1e-8)
        found = (states * direction).sum(2) / norms  # a product of matrices may be autocast
        return found > self.threshold if self.above else found < self.threshold


def when(
    vector: SteeringVector,
    *,
    layer: int | None = None,
    above: float | None = None,
    below: float | None = None,
    each: str = "prompt",
    hysteresis: int = 0,
    **unknown: NoReturn,
) -> Condition:
    """Make a condition for `steer`: only sequences, or tokens, that meet it are steered.

    A sequence meets it where the mean of the residual stream over the prompt's tokens, at the
    vector's site of one layer, has a cosine similarity with the vector's direction above, or below,
    a threshold. It is decided in the forward of the prompt, for all later layers, and holds for
    prompt and answer until the next prompt. With ``each="token"`` every token is compared alone, of
    the prompt and of the answer, on the device, and decides on its own later layers.

    Args:
        vector: the condition vector.
        layer: where it is read; may be left out where the vector has one layer.
        above: the threshold, -1 to 1, that the similarity must exceed; or
        below: the threshold that it must not reach.
        each: what meets it, a whole "prompt" or a "token".
        hysteresis: for tokens: for how many tokens it holds after the last one that met it. With n,
            the token at position p is steered where any of the positions p - n to p met it.
        unknown: nothing; other keywords are refused.

    Raises:
        TypeError: not a SteeringVector, a threshold that is not a number, or a hysteresis that is
            not a whole one.
        ValueError: none or both of `above` and `below`, one that no cosine reaches, or a layer that
            the vector lacks; a direction of zeros; another `each`; a hysteresis below 0, or of
            prompts.
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
    _require_each(each, hysteresis)
    if layer is None:
        if len(vector.layers) > 1:
            raise ValueError(f"{vector.name!r} has layers {vector.layers}; say which with layer=")
        layer = vector.layers[0]
    direction = vector.at(layer).normalized().directions[layer]
    compared = direction, Site.of(layer, vector.site), float(threshold), above is not None, vector
    return TokenCondition(*compared, hysteresis) if each == "token" else Condition(*compared)


def _require_each(each: str, hysteresis: int) -> None:
    if each not in ("prompt", "token"):
        raise ValueError(f"when() got each={each!r}; expected 'prompt' or 'token'")
    if isinstance(hysteresis, bool) or not isinstance(hysteresis, int):
        raise TypeError(f"when() got a hysteresis of {hysteresis!r}; expected a number of tokens")
    if hysteresis < 0:
        raise ValueError(f"when() got a hysteresis of {hysteresis}; expected at least 0 tokens")
    if hysteresis and each == "prompt":
        raise ValueError(
            "when() got a hysteresis for prompts, on which it decides once; it is of each='token'"
        )
