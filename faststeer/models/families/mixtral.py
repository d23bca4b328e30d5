"""Mixtral: LLaMA's block with a mixture of experts."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import (
    MixtralDecoderLayer,
    MixtralModel,
    MixtralRMSNorm,
)

from faststeer.models.fused_layers import FinalNorm, PreNormLayer, family


class SteeredMixtralDecoderLayer(PreNormLayer, MixtralDecoderLayer):
    """The stock layer, fused."""

    block_sparse_moe: Any

    def feed_forward(self, normed: Tensor) -> Tensor:
        """Run the experts; transformers 4 names them differently and returns router logits too."""
        if "mlp" in self._modules:
            return super().feed_forward(normed)
        added: Tensor = self.block_sparse_moe(normed)[0]
        return added


class SteeredMixtralRMSNorm(FinalNorm, MixtralRMSNorm):
    """The final norm."""


FAMILY = family(
    MixtralModel,
    (MixtralDecoderLayer, MixtralRMSNorm),
    (SteeredMixtralDecoderLayer, SteeredMixtralRMSNorm),
)
