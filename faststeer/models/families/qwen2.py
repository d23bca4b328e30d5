"""Qwen 2 and 2.5: LLaMA's block with biases in attention."""

from __future__ import annotations

from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2Model, Qwen2RMSNorm

from faststeer.models.fused_layers import FinalNorm, PreNormLayer, family


class SteeredQwen2DecoderLayer(PreNormLayer, Qwen2DecoderLayer):
    """The stock layer, fused."""


class SteeredQwen2RMSNorm(FinalNorm, Qwen2RMSNorm):
    """The final norm."""


FAMILY = family(
    Qwen2Model, (Qwen2DecoderLayer, Qwen2RMSNorm), (SteeredQwen2DecoderLayer, SteeredQwen2RMSNorm)
)
