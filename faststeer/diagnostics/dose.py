"""How strong a vector is beside the residual stream that it is added to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.extraction.examples import POSITIVE, Example
from faststeer.extraction.reader import ActivationReader
from faststeer.vectors.steering_vector import SteeringVector


def residual_norms(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    layers: str | int | Sequence[int] = "all",
    site: str = "resid_post",
    max_length: int | None = None,
) -> dict[int, Tensor]:
    """The Euclidean norm of the residual stream at every token: layer -> ``[N]`` float32.

    N counts the tokens of all texts, which are run one at a time; only norms are kept. A text's
    first token is often a hundred times as large as the others: take the median, not the mean.

    Args:
        model: a model that `patch` accepts; it is read as it stands.
        tokenizer: its tokenizer.
        texts: at least one.
        layers: 0-based decoder layers, or "all".
        site: ``resid_pre``, ``resid_mid`` or ``resid_post``.
        max_length: texts are cut after so many tokens.

    Raises:
        ValueError: no texts, texts that are empty or longer than the model's context, a layer out
            of range, or an unknown site.
    """
    reader = ActivationReader(model, tokenizer, layers, site, -1, max_length, True)
    found: dict[int, list[Tensor]] = {layer: [] for layer in reader.layers}
    with reader.keep_patched():
        for number, text in enumerate(texts):
            unit = reader.encoder.encode(Example(number, (text,), (POSITIVE,)))
            for layer, norms in reader.read_all_tokens(unit.ids, _norms).items():
                found[layer].append(norms[0].cpu())
    if not reader.encoder.encoded:
        raise ValueError("got no texts; at least one is needed")
    reader.encoder.report()
    return {layer: torch.cat(norms) for layer, norms in found.items()}


def relative_dose(
    vector: SteeringVector, norms: Mapping[int, Tensor], coefficient: float = 1.0
) -> dict[int, float]:
    """``|c| * |v| / |h|``, with the median norm of the residual stream for ``|h|``, a layer.

    Args:
        vector: directions v, one a layer.
        norms: ``[N]`` for each of its layers, as `residual_norms` tells them for its site.
        coefficient: c.

    Raises:
        ValueError: no norms for a layer of the vector.
    """
    doses = {}
    for layer, own in vector.norms().items():
        if layer not in norms:
            raise ValueError(f"vector {vector.name!r}: no norms are given for layer {layer}")
        doses[layer] = abs(coefficient) * own / float(norms[layer].median())
    return doses


def _norms(hidden: Tensor) -> Tensor:
    norms: Tensor = hidden.float().norm(dim=-1)
    return norms
