"""From results to an outcome: the findings first, then what they stand on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faststeer.experiments.outcome import Outcome, Section
from faststeer.experiments.several import (
    tell_alone,
    tell_at_once,
    tell_combined,
    tell_freely,
    tell_interactions,
    tell_vectors,
)
from faststeer.experiments.several.results import Results


def told(results: Results, facts: Mapping[str, Any]) -> Outcome:
    """All sections; `facts` says what it was made with."""
    sections = [
        _findings(results),
        tell_alone.unsteered(results),
        tell_vectors.vectors(results),
        tell_alone.alone(results),
        tell_combined.together(results),
        tell_at_once.at_once(results),
        tell_at_once.a_coefficient_each(results),
        tell_interactions.interactions(results),
        tell_freely.freely(results),
    ]
    title = f"Several behaviours, alone and together ({facts['model']['name']})"
    return Outcome("behaviours", title, facts, sections)


def _findings(results: Results) -> Section:
    """Every sentence is computed from what was measured."""
    sentences = [
        tell_alone.answers_at_all(results),
        *tell_alone.works_alone(results),
        *tell_combined.combining_works(results),
        tell_at_once.simultaneous_works(results),
        tell_at_once.coefficients_beat_one(results),
        tell_vectors.opposed(results),
        tell_interactions.strongest(results),
        tell_freely.fluency(results),
    ]
    return Section("Findings", "\n\n".join(own for own in sentences if own is not None))
