"""Gemma 2: four norms a layer, each multiplying by one plus its weight."""

from __future__ import annotations

from transformers.models.gemma2.modeling_gemma2 import (
    Gemma2DecoderLayer,
    Gemma2Model,
    Gemma2RMSNorm,
)

from faststeer.models.fused_layers import FinalNorm, family
from faststeer.models.sandwich_layers import SandwichLayer


class SteeredGemma2DecoderLayer(SandwichLayer, Gemma2DecoderLayer):
    """The stock layer, fused."""


class SteeredGemma2RMSNorm(FinalNorm, Gemma2RMSNorm):
    """The final norm."""


FAMILY = family(
    Gemma2Model,
    (Gemma2DecoderLayer, Gemma2RMSNorm),
    (SteeredGemma2DecoderLayer, SteeredGemma2RMSNorm),
    epsilon="eps",
    weight_offset=1.0,
)
