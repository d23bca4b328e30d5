"""A vector to inspect, with texts and pairs for the inspection."""

from __future__ import annotations

import torch

from faststeer import SteeringVector

PAIRS = [(f"good thing {n}", f"a bad thing {n * n}") for n in range(8)]
TEXTS = ["Basalt is a rock.", "A lighthouse."]


def steering(seed: int = 0, name: str = "v", layers: tuple[int, ...] = (0, 1, 3)) -> SteeringVector:
    draw = torch.Generator().manual_seed(seed)
    return SteeringVector(name, {n: torch.randn(64, generator=draw) * (n + 1) for n in layers})
