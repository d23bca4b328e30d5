"""The figures of the paper's first part, and one of what a vector does to other skills."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from faststeer.experiments.broad.lines import Line
from faststeer.experiments.broad.measuring import BASELINES, HALF, VECTOR
from faststeer.experiments.broad.sets import TEXT
from faststeer.experiments.outcome import Figure

_BINS = 60


def against_text(name: str, lines: Sequence[Line]) -> Figure:
    """Text's accuracy over the skill's, a curve a way to steer."""
    skill = lines[0].away_from
    series = []
    for line in lines:
        style = "solid" if line.kind == VECTOR else "dashed" if line.kind in BASELINES else "dotted"
        points = [
            (100 * own, 100 * text, f"{coefficient:g}" if coefficient else "")
            for own, text, coefficient in zip(
                line.relative(skill), line.relative(TEXT), line.coefficients, strict=True
            )
            if math.isfinite(own) and math.isfinite(text)
        ]
        series.append(
            {
                "name": line.name,
                "x": [point[0] for point in points],
                "y": [point[1] for point in points],
                "style": style,
                "notes": [point[2] for point in points],
            }
        )
    return Figure(
        name,
        "curves",
        f"Next-token accuracy on text over that on {skill}, both relative to the unsteered model, "
        f"as a vector from {skill} to text is added with growing coefficients (the small numbers). "
        "The higher a curve, the less text pays for what the skill loses; on the diagonal both "
        "lose alike. Solid: the vector at one layer; dashed: baselines; dotted: other places.",
        {
            "title": f"Steering away from {skill}: what text keeps (small numbers: coefficients)",
            "x": f"accuracy on {skill}, relative to unsteered (%)",
            "x_range": [0, 104],
            "panels": [
                {
                    "y": "accuracy on text, relative to unsteered (%)",
                    "y_range": [0, 104],
                    "diagonal": True,
                    "series": series,
                }
            ],
        },
    )


def other_skills(lines: Sequence[Line], skills: Sequence[str]) -> Figure:
    """What is left of each skill and source when a vector's own is at half."""
    return Figure(
        "crosswise",
        "bars",
        "Next-token accuracy that is left of each kind of document, relative to the unsteered "
        "model, at the coefficient that brings the vector's own skill to 50 % (the dotted line).",
        {
            "title": "When a vector's own skill is at 50 %, what is left of the others",
            "y": "accuracy, relative to unsteered (%)",
            # Every second name a line lower, so that long ones have room.
            "groups": ["\n" * (at % 2) + skill for at, skill in enumerate(skills)],
            "line": 100 * HALF,
            "series": [
                {
                    "name": f"away from {line.away_from}\n({line.name})",
                    "values": [_known(line.kept(HALF, skill)) for skill in skills],
                }
                for line in lines
            ],
        },
    )


def components(layer: int, means: Sequence[tuple[str, Tensor, Tensor]]) -> Figure:
    """How the components of two means are distributed, for each skill beside text."""
    every = torch.cat([torch.cat([text, other]) for _, text, other in means])
    reach = float(every.abs().max()) or 1.0
    edges = torch.linspace(-reach, reach, _BINS + 1)
    panels: list[dict[str, Any]] = []
    for skill, text, other in means:
        parts = {TEXT: text, skill: other, "text minus skill": text - other}
        panels.append(
            {
                "title": f"{skill} and text",
                "edges": edges.tolist(),
                "series": [
                    {"name": name, "counts": _counts(own, edges)} for name, own in parts.items()
                ],
            }
        )
    return Figure(
        "activation_distribution",
        "histograms",
        f"How many of the residual stream's {len(means[0][1])} components have which value, in the "
        f"mean over documents of the last token after layer {layer}, and in the difference of two "
        "means, the steering vector. Counts are logarithmic.",
        {
            "title": f"Components of the mean activations, layer {layer}",
            "x": "value of a component",
            "panels": panels,
        },
    )


def _counts(values: Tensor, edges: Tensor) -> list[int]:
    low, high = float(edges[0]), float(edges[-1])
    inside = values.float().clamp(low, high)
    return [int(count) for count in torch.histc(inside, _BINS, low, high).tolist()]


def _known(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share
