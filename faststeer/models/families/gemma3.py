"""Gemma 3, the text model, alone or inside the one that sees images: Gemma 2's block."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.gemma3.modeling_gemma3 import (
    Gemma3DecoderLayer,
    Gemma3RMSNorm,
    Gemma3TextModel,
)

from faststeer.models.fused_layers import FinalNorm, family
from faststeer.models.sandwich_layers import SandwichLayer


class SteeredGemma3DecoderLayer(SandwichLayer, Gemma3DecoderLayer):
    """The stock layer, fused."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Call the layer; transformers 4 passes the rotary embeddings of both kinds."""
        kwargs = self.by_name(args, kwargs)
        if "position_embeddings_local" in kwargs:
            near = kwargs.pop("position_embeddings_local")
            far = kwargs.pop("position_embeddings_global")
            kwargs["position_embeddings"] = near if self.self_attn.is_sliding else far
        return super().forward(hidden_states, **kwargs)


class SteeredGemma3RMSNorm(FinalNorm, Gemma3RMSNorm):
    """The final norm."""


FAMILY = family(
    Gemma3TextModel,
    (Gemma3DecoderLayer, Gemma3RMSNorm),
    (SteeredGemma3DecoderLayer, SteeredGemma3RMSNorm),
    epsilon="eps",
    weight_offset=1.0,
)
