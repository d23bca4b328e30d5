"""A vector of one layer that states its intended use in its metadata."""

from __future__ import annotations

from typing import Any

import torch

from faststeer import SteeringVector


def vector(**metadata: Any) -> SteeringVector:
    direction = torch.linspace(-4, 5, 64)
    return SteeringVector("v", {1: direction}, metadata=metadata)
