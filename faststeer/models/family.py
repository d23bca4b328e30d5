"""`Family`: the stock classes of a model family and the classes that replace them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Family:
    """Stock classes of a family and what they become while patched."""

    decoder: type[nn.Module]
    layer: type[nn.Module]
    norm: type[nn.Module]
    steered_layer: type[nn.Module]
    steered_norm: type[nn.Module]
    mid_norm: str  # what reads the residual after attention
    epsilon: str  # the norms' attribute
    weight_offset: float  # a norm multiplies by this and its weight
    attention: str = "self_attn"
    input_norm: str = "input_layernorm"
    layers: str = "layers"
    final_norm: str = "norm"
