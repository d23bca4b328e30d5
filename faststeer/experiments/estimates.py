"""Values with intervals, and what steering costs on general text: the alignment tax."""

from __future__ import annotations

from typing import NamedTuple

from faststeer.evaluate.bootstrap import interval
from faststeer.evaluate.next_token import TokenScores
from faststeer.evaluate.records import Record

TEXT = "text"


class Estimate(NamedTuple):
    """A value and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def shown(self) -> str:
        """The text for tables of values."""
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def signed(self) -> str:
        """The text for tables of changes."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def accuracy(record: Record) -> Estimate:
    """Return top-1 accuracy on general text; texts are resampled for the interval."""
    found = TokenScores.from_items(record["items"][TEXT])
    low, high = interval(lambda at: found.chosen(at.tolist()).accuracy, len(found.tokens))
    return Estimate(found.accuracy, low, high)


def tax(record: Record, unsteered: Record) -> float:
    """Return the share of the unsteered model's correct next tokens that is lost."""
    own, before = (one["scores"][TEXT]["accuracy"] for one in (record, unsteered))
    return 1 - own / before if before else 0.0
