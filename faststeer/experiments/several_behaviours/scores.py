"""Scores with intervals, from the records of a behaviour's questions or of general text."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from faststeer.evaluate.bootstrap import mean_interval
from faststeer.evaluate.matching import Matching
from faststeer.evaluate.records import Record
from faststeer.evaluate.tasks import FAULTY
from faststeer.experiments.estimates import Estimate

SCORE, PROBABILITY = "score", "probability"
MEASURES = {SCORE: "matching score", PROBABILITY: "matching probability"}


def by_item(record: Record, measure: str) -> Tensor:
    """Return ``[N]`` float64: whether each answer matches, or the matching option's probability.

    The probability is relative to the two options: the question is which of them is chosen.
    """
    answers = Matching.from_items(record["items"])
    if measure == SCORE:
        return answers.matched.double()
    # Strong steering can overflow in float16: an undefined probability counts as a miss.
    return (answers.log_matching - answers.log_other).sigmoid().nan_to_num(0.0)


def estimate(records: Sequence[Record], measure: str) -> Estimate:
    """Return the mean over behaviours under one setting, given a record per behaviour."""
    return _of_means([by_item(record, measure) for record in records])


def change(records: Sequence[Record], before: Sequence[Record], measure: str) -> Estimate:
    """Return how far a setting moves the mean over behaviours from another's, per question."""
    both = zip(records, before, strict=True)
    return _of_means([by_item(own, measure) - by_item(other, measure) for own, other in both])


def is_sound(record: Record, unsteered: Record) -> bool:
    """Return whether the answers neither collapsed nor became faulty under steering.

    Faults of the unsteered model itself do not count.
    """
    own, before = record["scores"], unsteered["scores"]
    most = FAULTY * len(record["items"]["answers"])
    faulty = own["faulty"] > most >= before["faulty"]
    return not faulty and not (own["collapsed"] and not before["collapsed"])


def shown_with_flags(record: Record, measure: str) -> str:
    """Return an estimate for tables; beside a score, whether answers are faulty or collapsed."""
    shown, scores = estimate([record], measure).shown, record["scores"]
    if measure != SCORE:
        return shown
    faulty = [f"{scores['faulty']} faulty"] if scores["faulty"] else []
    flags = ", ".join(faulty + ["collapsed"] * scores["collapsed"])
    return f"{shown} {flags}".strip()


def _of_means(values: Sequence[Tensor]) -> Estimate:
    low, high = mean_interval(*values)
    return Estimate(float(sum(float(own.mean()) for own in values)) / len(values), low, high)
