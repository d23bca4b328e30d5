"""The table of a sweep: a line per setting, in 80 columns, and what its columns mean."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from faststeer.evaluate.damage_task import NEUTRAL
from faststeer.evaluate.score_intervals import Interval, score_intervals

_MEANINGS = {
    "score": "share of questions answered with the matching option; other answers count against it",
    "probability": "mean probability of the matching option, of the two",
    "faulty": "answers that are neither option",
    "margin": "how much likelier the positive texts are than the negative, nats per token",
    "accuracy": "share of next tokens that the model predicts right",
    "perplexity": "of these documents",
    "kl": "KL(unsteered || steered) of the next token, nats, the mean per token",
    "neutral ppl": "perplexity of neutral prose, in multiples of the unsteered one",
    "neutral kl": "KL(unsteered || steered) on the same prose, nats per token",
}
_OF_CHOICES = ("score", "probability", "faulty")
_OF_DOCUMENTS = ("accuracy", "perplexity", "kl")


def sweep_table(records: list[dict[str, Any]]) -> Table:
    """Return a line per setting; scores have 95 % intervals where they fit."""
    table = Table(caption="[ ]: 95 % intervals; of the change from unsteered, over items")
    columns = _columns(records[0])
    table.add_column("setting", overflow="fold")
    for heading in columns:
        table.add_column(Text(heading), justify="right")
    unsteered = records[0]["scores"]
    for record in records:
        intervals = score_intervals(record, None if record is records[0] else records[0])
        cells = [_cell(name, record["scores"], unsteered, intervals) for name in columns]
        table.add_row(*map(Text, [_setting(record, records), *cells]))
    return table


def explained(records: list[dict[str, Any]]) -> str:
    """Return what the columns of the table mean, a line each."""
    names = dict.fromkeys(name.rpartition(".")[2] for name in _columns(records[0]))
    return "\n".join(f"{name}: {_MEANINGS[name]}" for name in names)


def _columns(record: dict[str, Any]) -> list[str]:
    scores = record["scores"]
    sets = [name for name, own in scores.items() if isinstance(own, dict)]
    # Beside scores of answers or pairs; a set of documents may have that name too.
    damage = NEUTRAL in sets and len(sets) < len(scores)
    if damage:
        sets.remove(NEUTRAL)
    columns = [name for name in (*_OF_CHOICES, "margin") if name in scores and name not in sets]
    # Of several sets, accuracy alone: more would not fit.
    names = _OF_DOCUMENTS if len(sets) == 1 else _OF_DOCUMENTS[:1]
    columns += [f"{own}.{name}" for own in sets for name in names]
    return columns + (["neutral ppl", "neutral kl"] if damage else [])


def _cell(
    name: str, scores: dict[str, Any], unsteered: dict[str, Any], intervals: dict[str, Interval]
) -> str:
    if name == "neutral ppl":
        value = scores[NEUTRAL]["perplexity"]
        return "-" if value is None else f"x{value / unsteered[NEUTRAL]['perplexity']:.3f}"
    if name == "neutral kl":
        value = scores[NEUTRAL]["kl"]
        return "-" if value is None else f"{value:.3f}"
    of_set, _, key = name.rpartition(".")
    value = scores[of_set][key] if of_set else scores[name]
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    shown = f"{value:.3f}"
    if name in intervals:
        low, high = intervals[name]
        shown += f"\n[{low:.2f}, {high:.2f}]"
    return shown


def _setting(record: dict[str, Any], records: list[dict[str, Any]]) -> str:
    """Return the setting as text; the vector's name is left out where there is one."""
    vectors = {name for own in records for name in own["steering"]}
    terms = [
        f"{'' if len(vectors) == 1 else f'{name} '}{coefficient:+g} at {layer}"
        for name, coefficients in record["steering"].items()
        for layer, coefficient in coefficients.items()
    ]
    return ", ".join(terms) or "unsteered"
