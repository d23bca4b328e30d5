"""Gemma's later block: attention and the MLP each between two norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from faststeer.models.fused_layers import FusedLayer


class SandwichLayer(FusedLayer):
    """In front of a stock layer's class; the norms before the residual adds are called as ever."""

    mid_norm = "pre_feedforward_layernorm"
    post_attention_layernorm: nn.Module
    post_feedforward_layernorm: nn.Module

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the stock layer's: hidden states ``[B, T, H]`` to the same."""
        kwargs = self.by_name(args, kwargs)
        residual, weights = self.through(hidden_states, **kwargs)
        # Stock layers that take this (of transformers 4) return a tuple, the others the residual.
        if "output_attentions" not in self.arguments:
            return residual
        return (residual, weights) if kwargs.get("output_attentions") else (residual,)

    def from_attention(self, attended: Tensor) -> Tensor:
        """With the norm after attention."""
        added: Tensor = self.post_attention_layernorm(attended)
        return added

    def feed_forward(self, normed: Tensor) -> Tensor:
        """With the norm after the MLP."""
        added: Tensor = self.post_feedforward_layernorm(self.mlp(normed))
        return added
