"""Patch a decoder of a known family: its layers and final norm change their class in place.

Nothing else changes: parameters, hooks, isinstance and saving see the same modules.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from faststeer.models.calls import require_same_names
from faststeer.models.decoders import family_layers, require_distinct
from faststeer.models.family import Family
from faststeer.models.norm_handoff import NormHandoff
from faststeer.models.residual_stream import EmbeddingSteering, FusedResidual
from faststeer.patching.attachment import Attachment
from faststeer.patching.class_swap import check_replaceable, replace, replaceable, restore
from faststeer.vectors.sites import Site


class FusedPatch(Attachment):
    """The patch of a known family: each residual add, its steering and the next norm are one op.

    Nothing is changed before `attach`.
    """

    kinds = ("resid_mid", "resid_post")

    def __init__(self, decoder: nn.Module, family: Family) -> None:
        """Check the layers. Raises ValueError where one cannot be replaced."""
        self.family = family
        self.layers = family_layers(decoder, family)
        require_distinct(decoder, self.layers)
        for index, layer in enumerate(self.layers):
            self.require_steerable(layer, f"layer {index}")
        if not self.layers:
            raise ValueError(f"{type(decoder).__name__} has no layers; there is nothing to steer")
        self.hidden_size = _hidden_size(decoder, self._norm_of(decoder))

    def current_layers(self, decoder: nn.Module) -> list[nn.Module]:
        """Return the layers that the decoder has now."""
        return family_layers(decoder, self.family)

    def require_steerable(self, layer: nn.Module, what: str) -> None:
        """Raise ValueError, calling the layer `what`, where its class cannot be replaced."""
        check_replaceable(layer, self.family.layer, what)
        require_same_names(layer, layer.get_submodule(self.family.attention))

    def put_on(self, decoder: nn.Module) -> None:
        """Replace the classes of the layers and of the final norm."""
        tables = self.plan.tables
        self.norm = self._norm_of(decoder)
        handoff = NormHandoff()
        for index, layer in enumerate(self.layers):
            last = index + 1 == len(self.layers)
            stream = FusedResidual(
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
        embedding = EmbeddingSteering(tables[Site(0, "resid_pre")], self.layers[0])
        self._hooks = self.register_start_and_end(decoder, embedding)

    def take_off(self) -> None:
        """Restore the stock class of every module."""
        for hook in self._hooks:
            hook.remove()
        for layer in self.layers:
            restore(layer, self.family.layer)
        if self._norm_replaced:
            restore(self.norm, self.family.norm)

    def _norm_of(self, decoder: nn.Module) -> nn.Module:
        norm = decoder._modules[self.family.final_norm]
        assert norm is not None
        return norm


def _hidden_size(decoder: nn.Module, norm: nn.Module) -> int:
    weight = norm._parameters.get("weight")
    if weight is not None and weight.dim() == 1:
        return weight.numel()
    config: Any = decoder.config
    return int(config.hidden_size)
