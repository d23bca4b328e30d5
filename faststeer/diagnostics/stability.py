"""Stability of a vector: how well the vectors of two halves of the pairs agree."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.chat import format_of
from faststeer.diagnostics.similarity import cosines_between
from faststeer.extraction.auc import auc
from faststeer.extraction.cache_files import Cache
from faststeer.extraction.extract import extract
from faststeer.steering.positions import Positions
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class Halves:
    """Vectors of two halves of N pairs; `sides` ``[N]`` holds the half of each pair, 0 or 1."""

    first: SteeringVector
    second: SteeringVector
    sides: Tensor

    def stability(self) -> dict[int, float]:
        """Return the cosine of the two halves' directions per layer; NaN where one is zero.

        Near 1, more pairs would change the vector little.
        """
        return {
            layer: float(matrix[0, 1])
            for layer, matrix in cosines_between([self.first, self.second]).items()
        }

    def held_out_auc(self, first: dict[int, Tensor], second: dict[int, Tensor]) -> dict[int, float]:
        """Return the mean AUC of each half's vector on the pairs of the other half, per layer.

        Args:
            first: layer -> projections ``[N, 2]`` of all pairs on the first half's vector, as
                `pair_projections` returns them.
            second: the same on the second half's vector.
        """
        found = {}
        for layer in first:
            unseen = (first[layer][self.sides == 1], second[layer][self.sides == 0])
            found[layer] = sum(auc(projected[:, 0], projected[:, 1]) for projected in unseen) / 2
        return found


class _Half:
    """An iterable of the pairs of one half, which holds none of them."""

    def __init__(self, pairs: Iterable[tuple[str, str]], side: int) -> None:
        self.pairs = pairs
        self.side = side
        self.chat = format_of(pairs)

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
    cache: Cache = False,
) -> Halves:
    """Make a vector of each half of the pairs.

    Of every two consecutive pairs one goes into each half, drawn by a fixed seed, so that the order
    of the data does not separate the halves. Arguments and errors are those of `faststeer.extract`;
    `pairs` is read three times.

    Raises:
        TypeError: `pairs` is an iterator, which can be read only once.
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
            cache=cache,
        )
        for side in (0, 1)
    ]
    return Halves(made[0], made[1], sides)


def _sides() -> Iterator[int]:
    """Yield the half of each pair, without end: 0 and 1 in random order for every two pairs."""
    generator = random.Random(0)
    while True:
        side = generator.getrandbits(1)
        yield from (side, 1 - side)
