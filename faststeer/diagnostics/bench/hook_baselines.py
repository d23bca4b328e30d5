"""Steer stock models by plain PyTorch hooks, to compare faststeer with.

`steer_with_hooks` is the plainest statement of what steering means, for checks; `add_with_hooks`
is the fastest that hooks can be, for timing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from faststeer.data.batches import Batch
from faststeer.diagnostics.bench.layer_output import batch_first, hidden_states
from faststeer.models.decoders import find_decoder, layers_of
from faststeer.models.inference import logits
from faststeer.vectors.sites import Site
from faststeer.vectors.steering_vector import SteeringVector

Steering = list[tuple[SteeringVector, float]]  # vectors with their coefficients


def twin(model: nn.Module) -> nn.Module:
    """Copy a model's modules but not its weights, to hook or patch the copy alone."""
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, weights)


@contextmanager
def steer_with_hooks(model: nn.Module, steering: Steering) -> Iterator[None]:
    """Add ``sum_k c_k * v_k``, in float32, at each vector's layers and site until exit.

    The sum is rounded to the model's dtype once, as faststeer does. `model` must not be patched.
    """
    sums: dict[Site, Tensor] = {}
    for vector, coefficient in steering:
        for layer, direction in vector.directions.items():
            site = Site.of(layer, vector.site)
            term = coefficient * direction
            sums[site] = sums[site] + term if site in sums else term
    hooks = [_register_at(model, site, _adding(total)) for site, total in sums.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def add_with_hooks(model: nn.Module, addends: Mapping[int, Tensor]) -> list[RemovableHandle]:
    """Register a hook per layer that only adds its ``[H]`` to the layer's output in place.

    For the fastest hooks, give addends of the model's dtype on the layers' devices.
    """
    layers = layers_of(model)

    def adding(addend: Tensor) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden.add_(addend)

        return hook

    return [layers[i].register_forward_hook(adding(addend)) for i, addend in addends.items()]


def median_norms(model: nn.Module, batch: Batch, sites: Iterable[Site]) -> dict[Site, float]:
    """Return the median Euclidean norm of the residual stream at each site, without padding.

    The median, because a text's first token is often a hundred times as large as all others.
    """
    norms: dict[Site, float] = {}

    def measuring(site: Site) -> Callable[[Tensor], None]:
        def measure(hidden: Tensor) -> None:
            real = batch_first(hidden, *batch.ids.shape)[batch.real]
            norms[site] = float(real.float().norm(dim=-1).median())

        return measure

    hooks = [_register_at(model, site, measuring(site)) for site in sites]
    try:
        logits(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return norms


def _adding(total: Tensor) -> Callable[[Tensor], None]:
    def add(hidden: Tensor) -> None:
        hidden.copy_(hidden.float() + total.to(hidden.device))

    return add


def _register_at(model: nn.Module, site: Site, act: Callable[[Tensor], None]) -> RemovableHandle:
    """Register a hook that calls `act` with the residual stream at `site`, to read or change it."""
    layer = layers_of(model)[site.layer]

    def on_output(module: nn.Module, args: Any, output: Any) -> None:
        act(hidden_states(output))

    def on_input(module: nn.Module, args: Any, kwargs: Any) -> None:
        act(args[0] if args else kwargs["hidden_states"])

    if site.kind == "resid_post":
        return layer.register_forward_hook(on_output)
    target = layer
    if site.kind == "resid_mid":
        # The norm after attention reads the very tensor that is the residual stream there.
        target = layer.get_submodule(find_decoder(model)[1].mid_norm)
    return target.register_forward_pre_hook(on_input, with_kwargs=True)
