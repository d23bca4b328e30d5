"""Gemma 1: LLaMA's block, with norms that multiply by one plus their weight."""

from __future__ import annotations

from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer, GemmaModel, GemmaRMSNorm

from faststeer.models.fused_layers import FinalNorm, PreNormLayer, family


class SteeredGemmaDecoderLayer(PreNormLayer, GemmaDecoderLayer):
    """The stock layer, fused."""


class SteeredGemmaRMSNorm(FinalNorm, GemmaRMSNorm):
    """The final norm."""


FAMILY = family(
    GemmaModel,
    (GemmaDecoderLayer, GemmaRMSNorm),
    (SteeredGemmaDecoderLayer, SteeredGemmaRMSNorm),
    epsilon="eps",
    weight_offset=1.0,
)
