"""The logit lens of a vector: the tokens that it promotes and suppresses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.diagnostics.token_text import token_text
from faststeer.models.decoders import find_decoder
from faststeer.models.inference import device_of
from faststeer.models.vector_origin import warn_of_other_model
from faststeer.vectors.arguments import require_fitting
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class Lens:
    """The most promoted and suppressed tokens of one layer's direction, strongest first.

    Each is (token, its text, z), where z is the change of the token's logit, standardised over the
    vocabulary.
    """

    promoted: list[tuple[int, str, float]]
    suppressed: list[tuple[int, str, float]]


def logit_lens(
    model: nn.Module, tokenizer: Any, vector: SteeringVector, count: int = 8
) -> dict[int, Lens]:
    """Return the tokens that each layer's direction promotes and suppresses most.

    The direction passes through the final norm's weight and the unembedding (the logit lens of
    nostalgebraist 2020, on weights as in Geva et al. 2022, arXiv 2203.14680). The effect of later
    layers is not included, so early layers say little. Values are z-scores over the vocabulary: a
    shift of all logits changes no probability, and the direction's norm only scales them.

    Args:
        model: a causal model of a known family, patched or not.
        tokenizer: its tokenizer.
        vector: directions ``[H]``.
        count: promoted, and suppressed, tokens per layer.

    Raises:
        ValueError: a vector of another hidden size, a direction that is zero, a model without
            unembedding, or one of an unknown family.
    """
    logits = lens_logits(model, vector)
    found = {}
    for layer, row in zip(vector.layers, logits, strict=True):
        z = (row - row.mean()) / row.std()
        kept = min(count, len(z))
        found[layer] = Lens(
            _with_text(tokenizer, z, z.topk(kept).indices),
            _with_text(tokenizer, z, (-z).topk(kept).indices),
        )
    return found


def lens_logits(model: nn.Module, vector: SteeringVector) -> Tensor:
    """Return the logits ``[L, V]`` float32 of directions of norm ``sqrt(H)``; see `logit_lens`."""
    decoder, family = find_decoder(model)
    config: Any = decoder.config
    require_fitting(vector, int(config.hidden_size), "logit_lens")
    warn_of_other_model(vector, decoder)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no unembedding; give the model with its head")
    unit = torch.stack(list(vector.normalized().directions.values()))
    # The modules are called because their weights may be quantised, offloaded or have an offset.
    # At this norm, the final norm divides by 1.
    norm = decoder.get_submodule(family.final_norm)
    parameter = next(decoder.parameters())
    with torch.no_grad():
        rows = (unit * vector.hidden_size**0.5).to(device_of(decoder), parameter.dtype)
        normed = norm(rows)
        logits: Tensor = head(normed).float() - head(torch.zeros_like(normed[:1])).float()
    return logits.cpu()


def _with_text(tokenizer: Any, z: Tensor, ids: Tensor) -> list[tuple[int, str, float]]:
    return [(int(i), token_text(tokenizer, int(i)), float(z[int(i)])) for i in ids]
