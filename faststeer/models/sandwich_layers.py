"""Fused layers of Gemma 2 and 3: attention and the MLP each between two norms."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from faststeer.models.fused_layers import FusedLayer


class SandwichLayer(FusedLayer):
    """Mixin for stock layers; the norms before the residual adds are called unchanged."""

    mid_norm = "pre_feedforward_layernorm"

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Map hidden states ``[B, T, H]`` to the same, as the stock layer does."""
        kwargs = self.by_name(args, kwargs)
        residual, weights = self.body(hidden_states, kwargs)
        # Stock layers that take this (of transformers 4) return a tuple, the others the residual.
        if "output_attentions" not in self.arguments:
            return residual
        return (residual, weights) if kwargs.get("output_attentions") else (residual,)

    def from_attention(self, attended: Tensor) -> Tensor:
        """Return the norm of what attention computed."""
        added: Tensor = self._modules["post_attention_layernorm"](attended)
        return added

    def feed_forward(self, normed: Tensor) -> Tensor:
        """Return the norm of what the MLP computed."""
        modules = self._modules
        added: Tensor = modules["post_feedforward_layernorm"](modules["mlp"](normed))
        return added
