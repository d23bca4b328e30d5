"""What patching does to the modules of a model of a known family, and how that is undone.

Decoder layers and the final norm change their class, nothing else: parameters, hooks, isinstance
and saving see the same modules.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from faststeer.bank import Site
from faststeer.calls import require_same_names
from faststeer.forward import BeginsForward, EndsForward, devices_of
from faststeer.models import Family
from faststeer.plan import Plan
from faststeer.stream import EmbeddingSteering, Handoff, LayerStream
from faststeer.swapping import check_replaceable, replace, replaceable, restore


class Fused:
    """A decoder of a known family, whose residual adds and norms become one op with the steering.

    Nothing is changed before `attach`. It does not hold the decoder, which may hold it: a model is
    freed when its last user lets go, as a stock one is.
    """

    def __init__(self, decoder: nn.Module, family: Family) -> None:
        """Raises ValueError where a layer cannot be replaced."""
        self.family = family
        self.layers = layers_of(decoder, family)
        for index, layer in enumerate(self.layers):
            check_replaceable(layer, family.layer, f"layer {index}")
            require_same_names(layer, layer.get_submodule(family.attention))
        if not self.layers:
            raise ValueError(f"{type(decoder).__name__} has no layers; there is nothing to steer")
        norm = decoder._modules[family.final_norm]
        assert norm is not None
        self.norm = norm
        self.hidden_size = _hidden_size(decoder, norm)

    def attach(self, decoder: nn.Module) -> None:
        """Let the modules read the tables of a new `plan`, which has one for every site."""
        self.plan = Plan.for_layers(decoder, devices_of(self.layers), self.hidden_size)
        tables = self.plan.tables
        handoff = Handoff()
        for index, layer in enumerate(self.layers):
            last = index + 1 == len(self.layers)
            stream = LayerStream(
                handoff,
                (tables[Site(index, "resid_mid")], tables[Site(index, "resid_post")]),
                self.family,
                self.norm if last else self.layers[index + 1],
                None if last else self.family.input_norm,
            )
            replace(layer, self.family.steered_layer, stream)
        self._norm_replaced = replaceable(self.norm, self.family.norm)
        if self._norm_replaced:
            replace(self.norm, self.family.steered_norm, handoff)
        self._hooks = beginning(decoder, self.layers, self.plan)

    def detach(self) -> None:
        """Give every module its stock class back."""
        for hook in self._hooks:
            hook.remove()
        for layer in self.layers:
            restore(layer, self.family.layer)
        if self._norm_replaced:
            restore(self.norm, self.family.norm)


def layers_of(decoder: nn.Module, family: Family) -> list[nn.Module]:
    """The layers that a decoder of a known family has now."""
    return list(decoder.get_submodule(family.layers).children())


def beginning(decoder: nn.Module, layers: list[nn.Module], plan: Plan) -> list[RemovableHandle]:
    """Hooks that tell `plan` of each forward, and steer what the first layer reads."""
    embedding = EmbeddingSteering(plan.tables[Site(0, "resid_pre")])
    return [
        layers[0].register_forward_pre_hook(embedding, with_kwargs=True),
        decoder.register_forward_pre_hook(BeginsForward(plan, layers), with_kwargs=True),
        decoder.register_forward_hook(EndsForward(plan)),
    ]


def _hidden_size(decoder: nn.Module, norm: nn.Module) -> int:
    weight = norm._parameters.get("weight")
    if weight is not None and weight.dim() == 1:
        return weight.numel()
    config: Any = decoder.config
    return int(config.hidden_size)
