"""Settings of growing strength on one line, and what of one skill is left when another is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from faststeer.evaluate import interval
from faststeer.evaluate.records import Record
from faststeer.experiments.broad.sets import TEXT
from faststeer.experiments.broad.skills import scores_of


class Line:
    """Records of one way to steer, the unsteered one first and then by strength.

    `away_from`: the skill that the vector points away from, whose loss strength is judged by.
    `places`: the layers that are steered; `kind`: what is added there.
    """

    def __init__(
        self,
        kind: str,
        away_from: str,
        places: Sequence[int],
        records: Sequence[Record],
        skills: Mapping[str, Mapping[str, int]],
    ) -> None:
        self.kind, self.away_from, self.places = kind, away_from, list(places)
        self.records = list(records)
        self.coefficients = [_strength(record) for record in records]
        self._hits = {
            skill: torch.stack([scores_of(own, sources).top1 for own in records]).double()
            for skill, sources in skills.items()
        }

    @property
    def where(self) -> str:
        """Such as ``layer 15`` or ``layers 10 and 15``."""
        numbers = " and ".join(map(str, self.places))
        return f"layer{'s' * (len(self.places) > 1)} {numbers}"

    @property
    def name(self) -> str:
        """Where, and what, unless it is the vector itself at one place."""
        return self.where if self.kind == "vector" else f"{self.where}, {self.kind}"

    @property
    def documents(self) -> int:
        """In the set of the skill, and in that of text."""
        return self._hits[self.away_from].shape[1]

    def relative(self, skill: str, documents: Tensor | None = None) -> list[float]:
        """Top-1 accuracy over the unsteered one, of each record; of some documents, or all."""
        hits = self._hits[skill]
        sums = (hits if documents is None else hits[:, documents]).sum(1)
        found: list[float] = (sums / sums[0]).tolist()
        return found

    def at_loss(
        self, level: float, values: Sequence[float], documents: Tensor | None = None
    ) -> float:
        """`values` of the records, where the skill first falls to `level`, between records by a
        straight line; NaN where it does not fall so far.
        """
        lost = self.relative(self.away_from, documents)
        at = _first_below(lost, level)
        if at is None:
            return math.nan
        share = (lost[at - 1] - level) / (lost[at - 1] - lost[at])
        return values[at - 1] + share * (values[at] - values[at - 1])

    def step(self, level: float) -> int | None:
        """The number of the record at which the skill first is at `level` or below."""
        return _first_below(self.relative(self.away_from), level)

    def kept(self, level: float, skill: str = TEXT, documents: Tensor | None = None) -> float:
        """What is left of another skill when its own has fallen to `level`."""
        return self.at_loss(level, self.relative(skill, documents), documents)

    def dose(self, level: float) -> float:
        """The coefficient at which its own skill has fallen to `level`."""
        return self.at_loss(level, self.coefficients)

    def sure(self, statistic: Callable[[Tensor], float], seed: int) -> tuple[float, float] | None:
        """The bootstrap interval of a statistic of documents; None where some draws lack it.

        A skill's documents and text's are drawn together, the n-th of one with the n-th of the
        other; both are in an order that says nothing, so they are drawn independently.
        """
        low, high = interval(statistic, self.documents, seed=seed)
        return None if math.isnan(low) or math.isnan(high) else (low, high)


def _first_below(values: Sequence[float], level: float) -> int | None:
    return next((at for at, value in enumerate(values) if value <= level), None)


def _strength(record: Record) -> float:
    """The coefficient of a setting, one for all its layers."""
    amounts = (own for layers in record["steering"].values() for own in layers.values())
    return float(next(amounts, 0.0))
