"""The figures of the paper's section 3, and one of the other skills."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from faststeer.experiments.broad_skills.document_sets import CODE, TEXT
from faststeer.experiments.broad_skills.measure import BASELINES, HALF
from faststeer.experiments.broad_skills.strength_lines import VECTOR, StrengthLine
from faststeer.experiments.result import Figure

_BINS = 60


def against_text(name: str, lines: Sequence[StrengthLine]) -> Figure:
    """Plot the accuracy on text over that on the skill, one curve per way to steer."""
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
        f"as a vector from {skill} to text is added with growing coefficients (the small numbers, "
        "where there is room). "
        "The higher a curve, the less text is lost with the skill; on the diagonal both "
        "lose equally. Solid: the vector at one layer; dashed: baselines; dotted: other places.",
        {
            "title": f"Steering away from {skill}: text kept",
            "x": f"accuracy on {skill}, relative to unsteered (%)",
            "x_range": [104, 0],
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


def other_skills(lines: Sequence[StrengthLine], skills: Sequence[str]) -> Figure:
    """Plot what is left of each skill and source when a vector's own is at half."""
    return Figure(
        "crosswise",
        "bars",
        "Next-token accuracy left on each kind of document, relative to the unsteered model, at "
        "the coefficient that brings the vector's own skill to 50 % (the dotted line).",
        {
            "title": "Accuracy left on each skill when a vector's own is at 50 %",
            "y": "accuracy, relative to unsteered (%)",
            "groups": list(skills),
            "line": 100 * HALF,
            "series": [
                {
                    "name": f"away from {line.away_from} ({line.name})",
                    "values": [_known(line.kept(HALF, skill)) for skill in skills],
                }
                for line in lines
            ],
        },
    )


def components(layer: int, means: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Plot histograms of the components of the means of text and of each skill."""
    every = torch.cat([torch.cat(own) for own in means.values()])
    reach = float(every.abs().max()) or 1.0
    edges = torch.linspace(-reach, reach, _BINS + 1)
    panels: list[dict[str, Any]] = []
    for skill, (text, other) in means.items():
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
        f"Histograms of the residual stream's {len(means[CODE][0])} components, in the mean over "
        f"documents of the last token after layer {layer}, and in the difference of two means, the "
        "steering vector. Counts are logarithmic.",
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
