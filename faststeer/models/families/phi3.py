"""Phi-3 and Phi-4: LLaMA's block with dropout before each residual add."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.phi3.modeling_phi3 import Phi3DecoderLayer, Phi3Model, Phi3RMSNorm

from faststeer.models.fused_layers import FinalNorm, PreNormLayer, family


class SteeredPhi3DecoderLayer(PreNormLayer, Phi3DecoderLayer):
    """The stock layer, fused."""

    resid_attn_dropout: Any
    resid_mlp_dropout: Any

    def from_attention(self, attended: Tensor) -> Tensor:
        """Apply the dropout after attention."""
        added: Tensor = self.resid_attn_dropout(attended)
        return added

    def feed_forward(self, normed: Tensor) -> Tensor:
        """Apply the dropout after the MLP."""
        added: Tensor = self.resid_mlp_dropout(self.mlp(normed))
        return added


class SteeredPhi3RMSNorm(FinalNorm, Phi3RMSNorm):
    """The final norm."""


FAMILY = family(
    Phi3Model, (Phi3DecoderLayer, Phi3RMSNorm), (SteeredPhi3DecoderLayer, SteeredPhi3RMSNorm)
)
