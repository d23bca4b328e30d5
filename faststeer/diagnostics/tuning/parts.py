"""Measuring settings: of vectors, on items and on neutral texts that are kept for one purpose."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from faststeer.diagnostics.tuning.budget import Budget, Damage, damages
from faststeer.diagnostics.tuning.objectives import Objective
from faststeer.diagnostics.tuning.slopes import Place
from faststeer.evaluate.next_token import ScoredTexts
from faststeer.evaluate.tasks import Subject
from faststeer.steering.plan import Row
from faststeer.utils.progress import Advance
from faststeer.vectors.steering_vector import SteeringVector

Setting = Mapping[Place, float]


@dataclass(frozen=True)
class Part:
    """Vectors, with the items that each is to move, and neutral texts.

    `names`: of the vectors. `versions`: other directions in their place, by what they are, such as
    random ones. `sign`: -1 where the items' scores are to fall.
    """

    subject: Subject
    names: Sequence[str]
    vectors: Sequence[SteeringVector]
    objectives: Sequence[Objective]
    texts: ScoredTexts
    sign: float
    advance: Advance
    versions: Mapping[str, Sequence[SteeringVector]] = field(default_factory=dict)

    @contextmanager
    def steered(self, layers: Sequence[Sequence[int]]) -> Iterator[None]:
        """Add handles at layers of each vector, of coefficient 0; settings give coefficients."""
        handles = []
        try:
            for version, vectors in {"": self.vectors, **self.versions}.items():
                for name, vector, own in zip(self.names, vectors, layers, strict=True):
                    handle = self.subject.patched.steer(
                        vector, 0.0, layers=list(own), name=_handle(version, name)
                    )
                    handles.append(handle)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def only(self, number: int) -> Part:
        """Return the part of one vector, which is number 0 there."""
        return replace(
            self,
            names=[self.names[number]],
            vectors=[self.vectors[number]],
            objectives=[self.objectives[number]],
        )

    def rows(self, settings: Sequence[Setting], version: str = "") -> list[Row]:
        """Return settings of a version of the vectors, as `Patched.rows` takes them."""
        found: list[Row] = []
        for setting in settings:
            row: dict[str, dict[int, float]] = {}
            for place, coefficient in setting.items():
                name = _handle(version, self.names[place.vector])
                row.setdefault(name, {})[place.layer] = coefficient
            found.append(row)
        return found

    def effects(self, rows: Sequence[Row]) -> list[Tensor]:
        """Return how far each vector's items are moved, ``[S, N]`` nats, up being as wanted."""
        found = []
        for objective in self.objectives:
            scores = objective.measure(self.subject, rows, self.advance)
            found.append(self.sign * (scores[:-1] - scores[-1]))
        return found

    def mean_effects(self, settings: Sequence[Setting]) -> Tensor:
        """Return the mean of `effects` over the items, ``[S, vectors]``; -inf where one is NaN."""
        found = torch.stack([own.mean(1) for own in self.effects(self.rows(settings))], 1)
        return found.nan_to_num(nan=-torch.inf)

    def damages(self, rows: Sequence[Row], intervals: bool = False) -> list[Damage]:
        """Return what each row costs on the neutral texts."""
        return damages(self.subject, self.texts, rows, self.advance, intervals)

    def used(self, budget: Budget, settings: Sequence[Setting]) -> list[float]:
        """Return the share of a budget that each setting uses."""
        rows = self.rows(settings)
        needs_hits = budget.lost is not None
        found = damages(self.subject, self.texts, rows, self.advance, needs_hits=needs_hits)
        return [budget.used(own) for own in found]


def in_texts(vector: SteeringVector) -> SteeringVector:
    """Return a vector as it is measured: one of generated tokens acts on all tokens of texts."""
    if vector.metadata.get("positions") != "generated":
        return vector
    kept = {key: value for key, value in vector.metadata.items() if key != "positions"}
    return replace(vector, metadata=kept)


def _handle(version: str, name: str) -> str:
    return f"faststeer.tune: {version} {name}"


def halves(items: Sequence[Any], seed: int, most: int | None = None) -> tuple[list[Any], list[Any]]:
    """Return two random halves of items, of at most `most` together.

    Equal items count once: in both halves, one would be measured on what the other chose.

    Raises:
        ValueError: fewer than four.
    """
    items = _distinct(items)
    if len(items) < 4:
        raise ValueError(
            f"got {len(items)} items to tune on; at least 4 are needed, half of them to choose a "
            "setting and the others to measure it"
        )
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    order = order[:most]
    middle = len(order) // 2
    first, second = sorted(order[:middle]), sorted(order[middle:])
    return [items[n] for n in first], [items[n] for n in second]


def _distinct(items: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for item in items:
        if item not in found:
            found.append(item)
    return found
