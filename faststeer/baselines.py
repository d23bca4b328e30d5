"""What faststeer is compared with: steering by plain PyTorch hooks, on models left stock.

`steer_with_hooks` is the plainest statement of what steering means, for checks; `add_with_hooks`
the fastest that hooks can be, for timing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from faststeer import attaching
from faststeer.bank import Site
from faststeer.batches import Batch, logits
from faststeer.finding import find_blocks, find_decoder, find_known
from faststeer.recomputing import by_token, hidden_of
from faststeer.vectors import SteeringVector

Steering = list[tuple[SteeringVector, float]]  # vectors with their coefficients


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the decoder layers of a model that `patch` accepts. Raises as `patch`."""
    found = find_known(model)
    if found is None:
        decoder, blocks = find_blocks(model)
        return blocks.of(decoder)
    return attaching.layers_of(*found)


def twin(model: nn.Module) -> nn.Module:
    """Modules of its own over the same weights in memory, to be hooked or patched apart."""
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, weights)


@contextmanager
def steer_with_hooks(model: nn.Module, steering: Steering) -> Iterator[None]:
    """Inside, ``sum_k c_k * v_k`` is added in float32 at each vector's layers and site.

    The sum is rounded to the model's dtype once, as faststeer does. `model` must not be patched.
    """
    sums: dict[Site, Tensor] = {}
    for vector, coefficient in steering:
        for layer, direction in vector.directions.items():
            site = Site.of(layer, vector.site)
            term = coefficient * direction
            sums[site] = sums[site] + term if site in sums else term
    hooks = [_at(model, site, _adding(total)) for site, total in sums.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def add_with_hooks(model: nn.Module, addends: Mapping[int, Tensor]) -> list[RemovableHandle]:
    """A hook on each layer that adds its ``[H]`` to the output in place, and does no more.

    The fastest only with addends in the model's dtype, on the layer's device.
    """
    layers = layers_of(model)

    def adding(addend: Tensor) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden.add_(addend)

        return hook

    return [layers[i].register_forward_hook(adding(addend)) for i, addend in addends.items()]


def typical_norms(model: nn.Module, batch: Batch, sites: Iterable[Site]) -> dict[Site, float]:
    """The median Euclidean norm of the residual stream at each site, over what is not padding.

    The median, because a text's first token is often a hundred times as large as all others.
    """
    norms: dict[Site, float] = {}

    def reading(site: Site) -> Callable[[Tensor], None]:
        def read(hidden: Tensor) -> None:
            real = by_token(hidden, *batch.ids.shape)[batch.real]
            norms[site] = float(real.float().norm(dim=-1).median())

        return read

    hooks = [_at(model, site, reading(site)) for site in sites]
    try:
        logits(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return norms


def random_vector(
    name: str, norms: Mapping[int, float], hidden_size: int, seed: int, site: str = "resid_post"
) -> SteeringVector:
    """A direction of the given Euclidean norm for each layer in `norms`, any way it may point."""
    draw = torch.Generator().manual_seed(seed)
    directions = {}
    for layer, norm in norms.items():
        direction = torch.randn(hidden_size, generator=draw)
        directions[layer] = direction * (norm / direction.norm())
    return SteeringVector(name, directions, site)


def random_like(vector: SteeringVector, seed: int) -> SteeringVector:
    """Directions of `vector`'s norms, any way they may point: what a dose alone does."""
    name = f"random {vector.name}"
    return random_vector(name, vector.norms(), vector.hidden_size, seed, vector.site)


def summed(vectors: Iterable[SteeringVector]) -> Mapping[int, Tensor]:
    """One direction a layer, the sum of theirs."""
    first, *others = vectors
    return sum(others, start=first).directions


def _adding(total: Tensor) -> Callable[[Tensor], None]:
    def add(hidden: Tensor) -> None:
        hidden.copy_(hidden.float() + total.to(hidden.device))

    return add


def _at(model: nn.Module, site: Site, act: Callable[[Tensor], None]) -> RemovableHandle:
    """Let `act` read the residual stream at `site`, or change it in place."""
    layer = layers_of(model)[site.layer]

    def on_output(module: nn.Module, args: Any, output: Any) -> None:
        act(hidden_of(output))

    def on_input(module: nn.Module, args: Any, kwargs: Any) -> None:
        act(args[0] if args else kwargs["hidden_states"])

    if site.kind == "resid_post":
        return layer.register_forward_hook(on_output)
    target = layer
    if site.kind == "resid_mid":
        # The norm after attention reads the very tensor that is the residual stream there.
        target = layer.get_submodule(find_decoder(model)[1].mid_norm)
    return target.register_forward_pre_hook(on_input, with_kwargs=True)
