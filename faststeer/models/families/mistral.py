"""Mistral 7B and its relatives."""

from __future__ import annotations

from transformers.models.mistral.modeling_mistral import (
    MistralDecoderLayer,
    MistralModel,
    MistralRMSNorm,
)

from faststeer.models.fused_layers import FinalNorm, PreNormLayer, family


class SteeredMistralDecoderLayer(PreNormLayer, MistralDecoderLayer):
    """The stock layer, fused."""


class SteeredMistralRMSNorm(FinalNorm, MistralRMSNorm):
    """The final norm."""


FAMILY = family(
    MistralModel,
    (MistralDecoderLayer, MistralRMSNorm),
    (SteeredMistralDecoderLayer, SteeredMistralRMSNorm),
)
