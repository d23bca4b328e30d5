"""Scores with intervals, from the records of a behaviour's questions or of general text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from faststeer.evaluate.bootstrap import interval, mean_interval
from faststeer.evaluate.matching import Matching
from faststeer.evaluate.next_token import TokenScores
from faststeer.evaluate.records import Record, Setting, key_of
from faststeer.evaluate.tasks import FAULTY
from faststeer.experiments.several.measuring import TEXT, Found

SCORE, PROBABILITY = "score", "probability"
MEASURES = (SCORE, PROBABILITY)


class Estimate(NamedTuple):
    """A value and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def shown(self) -> str:
        """As in tables."""
        return f"{self.value:.3f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def signed(self) -> str:
        """As in tables of changes."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def sign(self) -> int:
        """1 or -1 where the interval is clear of 0, and else 0."""
        return (self.low > 0) - (self.high < 0)


def by_item(record: Record, measure: str) -> Tensor:
    """``[N]`` float64: whether each answer matches, or the matching option's probability.

    The probability is that of the two options alone: what is asked is which of them.
    """
    answers = Matching.from_items(record["items"])
    if measure == SCORE:
        return answers.matched.double()
    # In float16 strong steering can overflow: what has no probability counts as a miss.
    return (answers.log_matching - answers.log_other).sigmoid().nan_to_num(0.0)


def estimate(records: Sequence[Record], measure: str) -> Estimate:
    """The mean over behaviours, of one setting: a record of each behaviour."""
    values = [by_item(record, measure) for record in records]
    return _of_means(values)


def change(records: Sequence[Record], before: Sequence[Record], measure: str) -> Estimate:
    """How far a setting moves the mean over behaviours, on the same questions as another's."""
    both = zip(records, before, strict=True)
    return _of_means([by_item(own, measure) - by_item(other, measure) for own, other in both])


def is_sound(record: Record, unsteered: Record) -> bool:
    """Whether answers are still answers: not collapsed, and few are no option.

    What the unsteered model does itself does not count.
    """
    own, before = record["scores"], unsteered["scores"]
    most = FAULTY * len(record["items"]["answers"])
    faulty = own["faulty"] > most >= before["faulty"]
    return not faulty and not (own["collapsed"] and not before["collapsed"])


def accuracy(record: Record) -> Estimate:
    """Top-1 on general text, its texts drawn anew for the interval."""
    found = TokenScores.from_items(record["items"][TEXT])
    low, high = interval(lambda at: found.chosen(at.tolist()).accuracy, len(found.tokens))
    return Estimate(found.accuracy, low, high)


def tax(record: Record, unsteered: Record) -> float:
    """The share of the unsteered model's right next tokens that is lost."""
    own, before = (one["scores"][TEXT]["accuracy"] for one in (record, unsteered))
    return 1 - own / before if before else 0.0


def of_setting(found: Mapping[str, Found], setting: Setting) -> list[Record]:
    """The records of one setting, a behaviour each."""
    key = key_of(setting)
    return [records[key] for records in found.values()]


def flags(record: Record) -> str:
    """What else to know of the answers, for tables."""
    scores: Mapping[str, Any] = record["scores"]
    told = [f"{scores['faulty']} faulty"] if scores["faulty"] else []
    if scores["collapsed"]:
        told.append("collapsed")
    return ", ".join(told)


def _of_means(values: Sequence[Tensor]) -> Estimate:
    low, high = mean_interval(*values)
    return Estimate(float(sum(float(own.mean()) for own in values)) / len(values), low, high)
