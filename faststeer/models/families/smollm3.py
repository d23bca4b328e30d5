"""SmolLM3: LLaMA's block, with no rotary embedding in every fourth layer."""

from __future__ import annotations

from transformers.models.smollm3.modeling_smollm3 import (
    SmolLM3DecoderLayer,
    SmolLM3Model,
    SmolLM3RMSNorm,
)

from faststeer.models.fused_layers import FinalNorm, PreNormLayer, family


class SteeredSmolLM3DecoderLayer(PreNormLayer, SmolLM3DecoderLayer):
    """The stock layer, fused."""


class SteeredSmolLM3RMSNorm(FinalNorm, SmolLM3RMSNorm):
    """The final norm."""


FAMILY = family(
    SmolLM3Model,
    (SmolLM3DecoderLayer, SmolLM3RMSNorm),
    (SteeredSmolLM3DecoderLayer, SteeredSmolLM3RMSNorm),
)
