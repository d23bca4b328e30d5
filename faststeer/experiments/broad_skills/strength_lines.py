"""Settings of growing strength, and the accuracy kept on one skill when another is lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from faststeer.evaluate import interval
from faststeer.evaluate.records import Record
from faststeer.experiments.broad_skills.document_sets import TEXT
from faststeer.experiments.broad_skills.task import scores_of

VECTOR = "vector"


class StrengthLine:
    """Records of one way to steer, the unsteered one first and then by strength.

    Args:
        kind: what is added: `VECTOR`, a baseline or another place.
        away_from: the skill that the vector points away from, whose loss measures the strength.
        places: the layers that are steered.
        records: of the unsteered model and of the settings.
        skills: {skill: {source: how many of its first documents}}.
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
        """The layers, such as ``layer 15`` or ``layers 10 and 15``."""
        numbers = " and ".join(map(str, self.places))
        return f"layer{'s' * (len(self.places) > 1)} {numbers}"

    @property
    def name(self) -> str:
        """The layers, and the kind unless it is the vector itself."""
        return self.where if self.kind == VECTOR else f"{self.where}, {self.kind}"

    def relative(self, skill: str, documents: Tensor | None = None) -> list[float]:
        """Return top-1 accuracy over the unsteered one per record, on all or some documents."""
        hits = self._hits[skill]
        sums = (hits if documents is None else hits[:, documents]).sum(1)
        found: list[float] = (sums / sums[0]).tolist()
        return found

    def kept(self, level: float, skill: str = TEXT, documents: Tensor | None = None) -> float:
        """Return the relative accuracy on a skill when the line's own has fallen to `level`.

        Interpolated linearly between records; NaN where its own skill does not fall so far.
        """
        lost, kept = self.relative(self.away_from, documents), self.relative(skill, documents)
        at = next((at for at, value in enumerate(lost) if value <= level), None)
        if at is None:
            return math.nan
        share = (lost[at - 1] - level) / (lost[at - 1] - lost[at])
        return kept[at - 1] + share * (kept[at] - kept[at - 1])

    def interval(
        self, statistic: Callable[[Tensor], float], seed: int
    ) -> tuple[float, float] | None:
        """Return the 95 % bootstrap interval of a statistic of documents; None where some
        resamples lack it.

        The n-th documents of the skill and of text are drawn together. Both are in random order,
        so this equals drawing them independently.
        """
        low, high = interval(statistic, self._hits[self.away_from].shape[1], seed=seed)
        return None if math.isnan(low) or math.isnan(high) else (low, high)


def _strength(record: Record) -> float:
    """Return the coefficient of a setting, the same for all its layers."""
    coefficients = (own for layers in record["steering"].values() for own in layers.values())
    return float(next(coefficients, 0.0))
