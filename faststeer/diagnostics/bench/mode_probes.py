"""Probe what tokens decide for themselves: caps, and conditions by token.

As `probes` does for positions: plain hooks on a stock twin compute the right logits, and those of
the likeliest mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.diagnostics.bench.findings import Finding
from faststeer.diagnostics.bench.layer_output import batch_first, hidden_states
from faststeer.diagnostics.bench.probes import Probes, finding
from faststeer.diagnostics.bench.reference_runs import uncached_logits
from faststeer.diagnostics.bench.verdicts import EXPECTED, UNSTEERED, Verdict
from faststeer.models.decoders import layers_of
from faststeer.steering.conditions import when
from faststeer.vectors.steering_vector import SteeringVector

_RELATIVE_NORM = 4.0  # of what is added to the tokens that meet a condition
CAP, CONDITION = "a cap leaves tokens inside as they are", "tokens that meet a condition"


def mode_probes(probes: Probes) -> Iterator[Finding]:
    """Compare a cap and a condition by token with hooks, on the prompts of `probes`."""
    yield finding(CAP, partial(_probe_cap, probes))
    yield finding(CONDITION, partial(_probe_condition, probes))


def _probe_cap(probes: Probes) -> tuple[bool | None, str]:
    layer = probes.layer_index
    direction, _ = _dividing(_states(probes, probes.layer))

    def moved(by: Callable[[Tensor], Tensor]) -> Tensor:
        def edit(hidden: Tensor) -> Tensor:
            own = direction.to(hidden.device)
            return hidden - by(hidden @ own)[..., None] * own

        with _edit(probes.layer, edit):
            return uncached_logits(probes.stock, probes.prompts.ids, probes.prompts.mask)

    runs = {
        EXPECTED: moved(lambda along: along.clamp(min=0)),
        UNSTEERED: moved(torch.zeros_like),
        "a floor": moved(lambda along: along.clamp(max=0)),
        "a projection of every token": moved(lambda along: along),
    }
    handle = probes.patched.cap(SteeringVector("probe", {layer: direction}), ceiling=0.0)
    try:
        ours = uncached_logits(probes.model, probes.prompts.ids, probes.prompts.mask)
    finally:
        handle.remove()
    return Verdict.of(ours, runs, noise=0.0).judge(probes.limit)


def _probe_condition(probes: Probes) -> tuple[bool | None, str]:
    read = probes.layer_index - 1
    if read < 0:
        return (
            None,
            "no verdict: the model has one layer, and a condition is read at an earlier one",
        )
    states = _states(probes, layers_of(probes.stock)[read])
    direction, cosines = _dividing(states)
    threshold = _gap(cosines)
    met = (cosines > threshold).float()
    vector = probes.vector(_RELATIVE_NORM)
    condition = when(SteeringVector("condition", {read: direction}), above=threshold, each="token")
    handle = probes.patched.steer(vector, when=condition)
    try:
        ours = uncached_logits(probes.model, probes.prompts.ids, probes.prompts.mask)
    finally:
        handle.remove()
    tokens: Mapping[str, Tensor] = {
        EXPECTED: met,
        UNSTEERED: torch.zeros_like(met),
        "every token": torch.ones_like(met),
        "the other tokens": 1 - met,
        "the tokens after them": met.roll(1, 1),
        "those of the next row": met.roll(1, 0),
    }
    runs = {
        name: probes.reference_logits(probes.prompts, probes.prompts.ids, vector, own)
        for name, own in tokens.items()
        if name == EXPECTED or not torch.equal(own, met)
    }
    return Verdict.of(ours, runs, noise=0.0).judge(probes.limit)


def _states(probes: Probes, layer: nn.Module) -> Tensor:
    """Return the stock residual stream of the prompts after a layer, ``[B, T, H]`` float32."""
    found: list[Tensor] = []
    rows, tokens = probes.prompts.ids.shape
    hook = layer.register_forward_hook(
        lambda module, args, output: found.append(
            batch_first(hidden_states(output), rows, tokens).float().cpu()
        )
    )
    try:
        uncached_logits(probes.stock, probes.prompts.ids, probes.prompts.mask)
    finally:
        hook.remove()
    [states] = found
    if states.dim() != 3:
        raise ValueError(f"a layer's output has shape {tuple(states.shape)}; expected [B, T, H]")
    return states


def _dividing(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return a unit direction ``[H]`` along which tokens differ in sign, and cosines ``[B, T]``.

    It is the difference of the two tokens that point farthest apart.
    """
    unit = nn.functional.normalize(states, dim=-1)
    flat = unit.flatten(0, 1)
    first, second = divmod(int((flat @ flat.T).argmin()), len(flat))
    direction = nn.functional.normalize(flat[first] - flat[second], dim=0)
    return direction, unit @ direction


def _gap(values: Tensor) -> float:
    """Return the middle of the widest gap between neighbouring values, of their middle half."""
    ordered = values.flatten().sort().values
    inner = ordered[len(ordered) // 4 : (3 * len(ordered)) // 4 + 1]
    widest = int(inner.diff().argmax())
    return float((inner[widest] + inner[widest + 1]) / 2)


@contextmanager
def _edit(layer: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace a layer's output by ``change`` of it, in float32, until exit."""

    def edit(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_states(output)
        changed = change(hidden.float()).to(hidden.dtype)
        if isinstance(output, Tensor):
            return changed
        return type(output)([changed, *output[1:]])

    hook = layer.register_forward_hook(edit)
    try:
        yield
    finally:
        hook.remove()
