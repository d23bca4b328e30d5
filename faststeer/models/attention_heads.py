"""Where the attention heads of a model of a known family write into the residual stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from faststeer.models.decoders import family_layers, find_known, known
from faststeer.models.sandwich_layers import SandwichLayer
from faststeer.models.vector_origin import origin_facts
from faststeer.vectors.head_images import HeadColumns, head_writers


class AttentionHeads:
    """The output projections of a decoder's attention, `o_proj` of each layer.

    Its input is the heads' outputs side by side: head h has columns ``[h d, (h + 1) d)``.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find them.

        Raises:
            ValueError: a decoder of no known family, or of one whose attention passes a norm.
        """
        found = find_known(model)
        if found is None:
            raise ValueError(
                f"a {type(model).__name__} has no decoder of a known family ({known()}): whether "
                "its heads write into the stream after attention, and how, is not known"
            )
        self.decoder, family = found
        if issubclass(family.steered_layer, SandwichLayer):
            raise ValueError(
                f"the attention of a {type(self.decoder).__name__} passes a norm before it is "
                "added to the residual stream: what an addition to a head adds there differs from "
                "token to token, so no vector does the same; steer at resid_mid instead"
            )
        self.layers = family_layers(self.decoder, family)
        self.num_layers = len(self.layers)

    def projection(self, layer: int) -> nn.Linear:
        """Return a layer's output projection. Raises ValueError where it is not a plain one."""
        attention: Any = self.layers[layer].self_attn
        projection = attention._modules.get("o_proj")
        if type(projection) is not nn.Linear or type(projection.weight) is not nn.Parameter:
            raise ValueError(
                f"the attention of layer {layer} has a {type(projection).__name__} as o_proj, not "
                "a plain Linear: merge adapters, and load quantised or sharded weights whole"
            )
        if projection.weight.is_meta:
            raise ValueError(f"o_proj of layer {layer} is not in memory: load it whole")
        return projection

    def columns(self, layer: int) -> HeadColumns:
        """See `HeadWriters`."""
        projection = self.projection(layer)
        heads = getattr(self.decoder.config, "num_attention_heads", None)
        if not isinstance(heads, int) or heads < 1 or projection.in_features % heads:
            raise ValueError(
                f"the {projection.in_features} inputs of o_proj of layer {layer} are not those of "
                f"{heads} heads of one size"
            )
        return HeadColumns(projection.weight, heads)

    def origin(self) -> Mapping[str, Any]:
        """See `HeadWriters`."""
        return {**origin_facts(self.decoder), "num_layers": self.num_layers}


head_writers.register(nn.Module, AttentionHeads)
