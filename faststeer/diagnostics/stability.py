"""Whether half of the data gives the same vector as the other half."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.diagnostics.separability import auc
from faststeer.extraction.extract import extract
from faststeer.steering.positions import Positions
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class Halves:
    """Vectors of two halves of the pairs; `sides` ``[N]`` says in which each pair is."""

    first: SteeringVector
    second: SteeringVector
    sides: Tensor

    def stability(self) -> dict[int, float]:
        """The cosine of the two halves' directions, a layer: near 1 where more pairs change little.

        NaN where one of them is zero.
        """
        return {
            layer: float(own[0, 1])
            for layer, own in cosines_between([self.first, self.second]).items()
        }

    def held_out_auc(self, first: dict[int, Tensor], second: dict[int, Tensor]) -> dict[int, float]:
        """The mean AUC of each half's vector on the pairs of the other, a layer.

        Args:
            first: projections ``[N, 2]`` of all pairs on the first half's vector.
            second: and on the second's, both as `pair_projections` tells them.
        """
        found = {}
        for layer in first:
            unseen = (first[layer][self.sides == 1], second[layer][self.sides == 0])
            found[layer] = sum(auc(own[:, 0], own[:, 1]) for own in unseen) / 2
        return found


class _Half:
    """One side's pairs, streamed."""

    def __init__(self, pairs: Iterable[tuple[str, str]], side: int) -> None:
        self.pairs = pairs
        self.side = side
        self.template = getattr(pairs, "template", None)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for pair, side in zip(self.pairs, _sides(), strict=False):
            if side == self.side:
                yield pair


def halves(
    model: nn.Module,
    tokenizer: Any,
    pairs: Iterable[tuple[str, str]],
    *,
    layers: str | int | Sequence[int] = "all",
    method: str = "mean_difference",
    site: str = "resid_post",
    read_token: int | Positions = -1,
    batch_size: int = 16,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    progress: bool = True,
) -> Halves:
    """Make a vector of each half of the pairs.

    Of every two pairs that follow each other one goes into each half, drawn by a fixed seed, so
    that an order in the data does not divide it. Arguments and errors are those of
    `faststeer.extract`; `pairs` is read three times.

    Raises:
        TypeError: an iterator, which can be read only once.
        ValueError: fewer than 4 pairs.
    """
    if iter(pairs) is pairs:
        raise TypeError("pairs is an iterator; they are read several times: give a list or a file")
    sides = torch.tensor([side for _, side in zip(pairs, _sides(), strict=False)])
    if len(sides) < 4:
        raise ValueError(f"got {len(sides)} pairs; halves need at least 4")
    made = [
        extract(
            model,
            tokenizer,
            _Half(pairs, side),
            name=f"half {side + 1}",
            layers=layers,
            method=method,
            site=site,
            read_token=read_token,
            batch_size=batch_size,
            max_length=max_length,
            add_special_tokens=add_special_tokens,
            progress=progress,
        )
        for side in (0, 1)
    ]
    return Halves(made[0], made[1], sides)


def _sides() -> Iterator[int]:
    draw = random.Random(0)
    while True:
        side = draw.getrandbits(1)
        yield from (side, 1 - side)


def cosines(vector: SteeringVector) -> Tensor:
    """Between the directions of all layers, ``[L, L]`` float64, in the order of `vector.layers`.

    NaN where a direction is zero.
    """
    return _cosines(list(vector.directions.values()))


def cosines_between(vectors: Sequence[SteeringVector]) -> dict[int, Tensor]:
    """Between vectors, ``[N, N]`` float64 for each layer that all of them have.

    Near 1 or -1, two behaviours are steered by much the same direction; in H dimensions random
    directions have a cosine of about ``1 / sqrt(H)``. NaN where a direction is zero.

    Raises:
        ValueError: no vectors, or such as are not of one model's size and site, or share no layer.
    """
    if not vectors:
        raise ValueError("got no vectors; at least one is needed")
    first = vectors[0]
    for other in vectors[1:]:
        if other.site != first.site or other.hidden_size != first.hidden_size:
            raise ValueError(
                f"{first.name!r} ({first.site}, hidden size {first.hidden_size}) and "
                f"{other.name!r} ({other.site}, {other.hidden_size}) cannot be compared: both must "
                "be equal"
            )
    shared = [layer for layer in first.layers if all(layer in v.directions for v in vectors)]
    if not shared:
        told = "; ".join(f"{vector.name!r} has {vector.layers}" for vector in vectors)
        raise ValueError(f"the vectors share no layer: {told}")
    return {layer: _cosines([v.directions[layer] for v in vectors]) for layer in shared}


def _cosines(directions: Sequence[Tensor]) -> Tensor:
    rows = torch.stack(list(directions)).double()
    unit = rows / rows.norm(dim=1, keepdim=True)
    found: Tensor = (unit @ unit.T).clamp(-1, 1)
    return found
