"""LLaMA 1, 2 and 3, and every checkpoint that transformers loads as one (SmolLM2, Yi, ...)."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel, LlamaRMSNorm

from faststeer.models import Family
from faststeer.stream import Handoff, LayerStream


class SteeredLlamaDecoderLayer(LlamaDecoderLayer):
    """The stock layer with both residual adds and the norms that follow them fused."""

    _faststeer: LayerStream

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = False,
        **kwargs: Any,
    ) -> Tensor:
        """As the stock layer's: hidden states ``[B, T, H]`` to the same."""
        stream = self._faststeer
        attended, _ = self.self_attn(
            hidden_states=stream.enter(hidden_states, self.input_layernorm),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        normed, residual = stream.middle(attended, hidden_states, self.post_attention_layernorm)
        return stream.leave(self, self.mlp(normed), residual)


class SteeredLlamaRMSNorm(LlamaRMSNorm):
    """The final norm, which the last layer may have computed already."""

    _faststeer: Handoff

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As the stock norm's: ``[..., H]`` to the same."""
        normed = self._faststeer.take(hidden_states, self)
        return super().forward(hidden_states) if normed is None else normed


# Code that goes by class names (_no_split_modules, FSDP policies) has to find the stock ones.
SteeredLlamaDecoderLayer.__name__ = LlamaDecoderLayer.__name__
SteeredLlamaRMSNorm.__name__ = LlamaRMSNorm.__name__

FAMILY = Family(
    LlamaModel, LlamaDecoderLayer, LlamaRMSNorm, SteeredLlamaDecoderLayer, SteeredLlamaRMSNorm
)
