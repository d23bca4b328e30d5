"""Qwen 3, dense: LLaMA's block with norms of queries and keys."""

from __future__ import annotations

from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3Model, Qwen3RMSNorm

from faststeer.models.fused_layers import FinalNorm, PreNormLayer, family


class SteeredQwen3DecoderLayer(PreNormLayer, Qwen3DecoderLayer):
    """The stock layer, fused."""


class SteeredQwen3RMSNorm(FinalNorm, Qwen3RMSNorm):
    """The final norm."""


FAMILY = family(
    Qwen3Model, (Qwen3DecoderLayer, Qwen3RMSNorm), (SteeredQwen3DecoderLayer, SteeredQwen3RMSNorm)
)
