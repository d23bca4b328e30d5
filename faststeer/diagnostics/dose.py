"""The dose of a vector: its norm relative to the residual stream to which it is added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from faststeer.extraction.cache_files import Cache
from faststeer.extraction.cached_reader import CachedReader
from faststeer.extraction.examples import POSITIVE, Example
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector


def residual_norms(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    layers: str | int | Sequence[int] = "all",
    site: str = "resid_post",
    max_length: int | None = None,
    cache: Cache = False,
    **unknown: NoReturn,
) -> dict[int, Tensor]:
    """Return the Euclidean norms of the residual stream, layer -> ``[N]`` float32 on the CPU.

    N counts the tokens of all texts, which are run one at a time; only norms are kept. The norm of
    a text's first token is often a hundred times that of the others: use the median, not the mean.

    Args:
        model: a model that `patch` accepts, patched or not; active steering is included.
        tokenizer: its tokenizer.
        texts: at least one.
        layers: 0-based decoder layers, or "all".
        site: ``resid_pre``, ``resid_mid`` or ``resid_post``.
        max_length: texts are truncated to this many tokens.
        cache: as for `faststeer.extract`; the norms are kept.
        unknown: nothing; other keywords are refused.

    Raises:
        ValueError: no texts, texts that are empty or longer than the model's context, a layer out
            of range, or an unknown site.
    """
    refuse_unknown("residual_norms", unknown, "layers")
    reader = CachedReader(model, tokenizer, layers, site, -1, max_length, True, cache=cache)
    found: dict[int, list[Tensor]] = {layer: [] for layer in reader.layers}
    with reader.keep_patched():
        for index, text in enumerate(texts):
            example = reader.encoder.encode(Example(index, (text,), (POSITIVE,)))
            for layer, norms in reader.read_norms(example.ids, _norms).items():
                found[layer].append(norms[0].cpu())
    if not reader.encoder.encoded:
        raise ValueError("got no texts; at least one is needed")
    reader.report()
    return {layer: torch.cat(norms) for layer, norms in found.items()}


def relative_dose(
    vector: SteeringVector, norms: Mapping[int, Tensor], coefficient: float = 1.0
) -> dict[int, float]:
    """Return the relative dose ``|c| * |v| / |h|`` per layer.

    ``|h|`` is the median norm of the residual stream.

    Args:
        vector: directions v.
        norms: ``[N]`` for each layer of the vector, as `residual_norms` returns them for its site.
        coefficient: c.

    Raises:
        ValueError: no norms for a layer of the vector.
    """
    doses = {}
    for layer, norm in vector.norms().items():
        if layer not in norms:
            raise ValueError(f"vector {vector.name!r}: no norms are given for layer {layer}")
        doses[layer] = abs(coefficient) * norm / float(norms[layer].median())
    return doses


def _norms(hidden: Tensor) -> Tensor:
    norms: Tensor = hidden.float().norm(dim=-1)
    return norms
