"""Qwen 3 with a mixture of experts: LLaMA's block around it."""

from __future__ import annotations

from torch import Tensor
from transformers.models.qwen3_moe.modeling_qwen3_moe import (
    Qwen3MoeDecoderLayer,
    Qwen3MoeModel,
    Qwen3MoeRMSNorm,
)

from faststeer.models.fused_layers import FinalNorm, PreNormLayer, family


class SteeredQwen3MoeDecoderLayer(PreNormLayer, Qwen3MoeDecoderLayer):
    """The stock layer, fused."""

    def feed_forward(self, normed: Tensor) -> Tensor:
        """Run the experts; in transformers 4 they return the router's logits too."""
        added: Tensor | tuple[Tensor, Tensor] = self.mlp(normed)
        return added[0] if isinstance(added, tuple) else added


class SteeredQwen3MoeRMSNorm(FinalNorm, Qwen3MoeRMSNorm):
    """The final norm."""


FAMILY = family(
    Qwen3MoeModel,
    (Qwen3MoeDecoderLayer, Qwen3MoeRMSNorm),
    (SteeredQwen3MoeDecoderLayer, SteeredQwen3MoeRMSNorm),
)
