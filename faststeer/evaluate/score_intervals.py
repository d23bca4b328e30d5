"""Intervals of a sweep's scores, from the items that its records hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from faststeer.evaluate.bootstrap import interval, mean_interval
from faststeer.evaluate.matching import Matching
from faststeer.evaluate.next_token import TokenScores
from faststeer.evaluate.records import Record

_DRAWS = 300

Interval = tuple[float, float]


def score_intervals(record: Record, unsteered: Record | None = None) -> dict[str, Interval]:
    """Return 95 % bootstrap intervals of a record's scores, by the names that `flat_records` gives.

    Scores on choices: "score" and "probability"; on pairs: "margin"; on each set of documents:
    "SET.accuracy" and "SET.kl". A score without an interval is left out.

    Args:
        record: of a sweep, with its items.
        unsteered: the record of the unsteered model. With it, an interval says how far the change
            from unsteered is known: the same items are drawn of both, and the unsteered score is
            added. Items differ more among themselves than steering changes them.
    """
    before = {} if unsteered is None else _means(unsteered)
    found = {}
    for name, values in _means(record).items():
        if name in before:
            low, high = mean_interval(values - before[name])
            found[name] = (low + float(before[name].mean()), high + float(before[name].mean()))
        else:
            found[name] = mean_interval(values)
    reference = {} if unsteered is None else _documents(unsteered)
    for name, scores in _documents(record).items():
        found |= {f"{name}.{key}": own for key, own in _of(scores, reference.get(name)).items()}
    return found


def _means(record: Record) -> dict[str, Tensor]:
    """Return the values ``[N]`` whose means are the record's scores on choices or pairs."""
    items: Mapping[str, Any] = record["items"]
    found: dict[str, Tensor] = {}
    if isinstance(items.get("answers"), list):  # a set of documents may have any name
        matching = Matching.from_items({name: items[name] for name in _OF_CHOICES})
        found["score"] = matching.matched.double()
        margin = matching.log_matching - matching.log_other
        if margin.isfinite().all():
            found["probability"] = margin.sigmoid()
    if isinstance(items.get("margin"), list):
        found["margin"] = torch.tensor(items["margin"], dtype=torch.float64)
    return found


_OF_CHOICES = ("answers", "matched", "valid", "log_matching", "log_other")


def _documents(record: Record) -> dict[str, TokenScores]:
    return {
        name: TokenScores.from_items(dict(own))
        for name, own in record["items"].items()
        if isinstance(own, Mapping) and "top1" in own
    }


def _of(scores: TokenScores, before: TokenScores | None) -> dict[str, Interval]:
    """Return the intervals of one set of documents."""
    count = len(scores.tokens)

    def drawn(statistic: Callable[[TokenScores], float]) -> Interval:
        return interval(lambda at: statistic(scores.chosen(at.tolist())), count, draws=_DRAWS)

    if before is None:
        found = {"accuracy": drawn(lambda own: own.accuracy)}
    else:
        reference = before

        def change(at: Tensor) -> float:
            both = (scores.chosen(at.tolist()), reference.chosen(at.tolist()))
            return both[0].accuracy - both[1].accuracy + reference.accuracy

        found = {"accuracy": interval(change, count, draws=_DRAWS)}
    if scores.divergence.isfinite().all():
        found["kl"] = drawn(lambda own: own.kl)
    return found
