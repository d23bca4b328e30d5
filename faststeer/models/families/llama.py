"""LLaMA 1, 2 and 3, and every checkpoint that transformers loads as one (SmolLM2, Yi, ...)."""

from __future__ import annotations

from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel, LlamaRMSNorm

from faststeer.models.fused_layers import FinalNorm, PreNormLayer, family


class SteeredLlamaDecoderLayer(PreNormLayer, LlamaDecoderLayer):
    """The stock layer, fused."""


class SteeredLlamaRMSNorm(FinalNorm, LlamaRMSNorm):
    """The final norm."""


FAMILY = family(
    LlamaModel, (LlamaDecoderLayer, LlamaRMSNorm), (SteeredLlamaDecoderLayer, SteeredLlamaRMSNorm)
)
