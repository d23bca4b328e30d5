"""Separability: how well projections on a vector separate positive from negative texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.chat import ChatFormat, format_of
from faststeer.extraction.auc import auc
from faststeer.extraction.cache_files import Cache
from faststeer.extraction.cached_reader import CachedReader
from faststeer.extraction.examples import NEGATIVE, POSITIVE, Example, labelled_examples
from faststeer.extraction.read_token import reject_answer, resolve_read_token
from faststeer.models.vector_origin import warn_of_other_model
from faststeer.steering.positions import Positions
from faststeer.utils.progress import progress_bar
from faststeer.vectors.arguments import require_fitting, require_several
from faststeer.vectors.steering_vector import SteeringVector


def pair_projections(
    model: nn.Module,
    tokenizer: Any,
    vectors: Sequence[SteeringVector],
    pairs: Iterable[tuple[str, str]],
    *,
    read_token: int | Positions | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    progress: bool = True,
    cache: Cache = False,
) -> list[dict[int, Tensor]]:
    """Return the projections ``h . v / |v|`` of the texts of N pairs on several vectors.

    All vectors are projected on in one pass over the pairs; they need the same site and layers.
    Other arguments and errors are those of `faststeer.extract`. The read token is by default the
    one that the vectors state, or -1; a `FaststeerWarning` names vectors that state another one, or
    another chat template.

    Returns:
        A dict per vector, of layers and ``[N, 2]`` float64 on the CPU, positive before negative, in
        the order of the pairs; zero where the direction is zero.
    """
    require_several(vectors, "vectors")
    chat = format_of(pairs)
    read_token = resolve_read_token(vectors, read_token, chat)
    options = (read_token, batch_size, max_length, add_special_tokens, progress, chat, cache)
    found = _projections(model, tokenizer, vectors, labelled_examples(pairs, None, None), *options)
    ordered = {layer: torch.stack(sides, 1) for layer, sides in found.items()}  # [N, 2, vectors]
    return [
        {layer: projected[..., number] for layer, projected in ordered.items()}
        for number in range(len(vectors))
    ]


def _projections(
    model: nn.Module,
    tokenizer: Any,
    vectors: Sequence[SteeringVector],
    labelled: tuple[Iterator[Example], int | None],
    read_token: int | Positions,
    batch_size: int,
    max_length: int | None,
    add_special_tokens: bool,
    progress: bool,
    chat: ChatFormat | None,
    cache: Cache,
) -> dict[int, list[Tensor]]:
    """Return layer -> projections ``[N, vectors]`` of the positive and of the negative texts."""
    if not vectors:
        raise ValueError("got no vectors; at least one is needed")
    examples, expected = labelled
    first = vectors[0]
    if any(other.site != first.site or other.layers != first.layers for other in vectors):
        raise ValueError("vectors that are read together need the same site and layers")
    reader = CachedReader(
        model,
        tokenizer,
        first.layers,
        first.site,
        read_token,
        max_length,
        add_special_tokens,
        chat=chat,
        cache=cache,
    )
    for vector in vectors:
        require_fitting(vector, reader.hidden_size, "pair_projections")
        warn_of_other_model(vector, reader.decoder)
    unit = {layer: _unit_columns(vectors, layer) for layer in reader.layers}
    found: dict[int, list[Tensor]] = {layer: [] for layer in reader.layers}
    sides: list[int] = []
    indices: list[int] = []
    with progress_bar("projecting", expected, progress) as advance, reader.keep_patched():
        for batch in reader.read(examples, batch_size, advance):
            each = len(batch.sides) // len(batch.indices)
            indices += [index for index in batch.indices for _ in range(each)]
            sides += batch.sides
            for layer, rows in batch.by_layer.items():
                columns = unit[layer].to(rows.device)
                found[layer].append((rows.float() @ columns).double().cpu())
    places = [_in_order(sides, indices, side) for side in (POSITIVE, NEGATIVE)]
    counts = list(map(len, places))
    if not all(counts):
        raise ValueError(
            f"got {counts[0]} positive and {counts[1]} negative texts; at least one of each is "
            "needed"
        )
    reader.report()
    return {layer: [torch.cat(parts)[at] for at in places] for layer, parts in found.items()}


def _in_order(sides: list[int], indices: list[int], side: int) -> Tensor:
    """Return the places of one side's texts among all that were read, ordered by index."""
    places = (torch.tensor(sides) == side).nonzero()[:, 0]
    return places[torch.tensor(indices)[places].argsort()]


def separability(
    model: nn.Module,
    tokenizer: Any,
    vector: SteeringVector,
    pairs: Iterable[tuple[str, str]] | None = None,
    *,
    positive: Iterable[str] | None = None,
    negative: Iterable[str] | None = None,
    read_token: int | Positions | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    progress: bool = True,
    cache: Cache = False,
) -> dict[int, float]:
    """Return the `auc` of projections of positive against negative texts, per layer.

    Give pairs, or positive and negative texts, that the vector was not made from: with as many
    dimensions as texts, some direction separates any two sets. Arguments and errors are those of
    `faststeer.extract`; the read token is by default the one that the vector states, or -1.
    """
    chat = format_of(pairs, positive, negative)
    read_token = resolve_read_token([vector], read_token, chat)
    if pairs is None:
        reject_answer(read_token)
    labelled = labelled_examples(pairs, positive, negative)
    options = (read_token, batch_size, max_length, add_special_tokens, progress, chat, cache)
    found = _projections(model, tokenizer, [vector], labelled, *options)
    return {layer: auc(above[:, 0], below[:, 0]) for layer, (above, below) in found.items()}


def _unit_columns(vectors: Sequence[SteeringVector], layer: int) -> Tensor:
    """Return a layer's directions as columns ``[H, vectors]`` of norm 1, or zero."""
    rows = torch.stack([vector.directions[layer] for vector in vectors])
    return torch.nn.functional.normalize(rows, dim=1).T.contiguous()
