"""Vectors with a cache and without, and how often the model ran for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import ByteTokenizer
from torch import nn

import faststeer
from faststeer import SteeringVector

PAIRS = [(f"is it {n}? yes{'!' * (n % 5)}", f"is it {n}? no") for n in range(21)]


class Runs:
    """How often the layers of a model ran."""

    def __init__(self, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        kind = type(model.model.layers[0].mlp)  # not replaced by a patch, and hooks are refused
        own = kind.forward

        def forward(module: nn.Module, *given: Any) -> Any:
            self.count += 1
            return own(module, *given)

        monkeypatch.setattr(kind, "forward", forward)

    def of(self, call: Callable[[], Any]) -> int:
        """Return how often layers ran in a call."""
        before = self.count
        call()
        return self.count - before


def extract(model: Any, cache: Any = False, pairs: Any = PAIRS, **options: Any) -> SteeringVector:
    return faststeer.extract(
        model, ByteTokenizer(), pairs, cache=cache, progress=False, **{"batch_size": 8} | options
    )


def equal(one: SteeringVector, other: SteeringVector) -> bool:
    return (
        one.layers == other.layers
        and one.metadata == other.metadata
        and all(torch.equal(one.directions[n], other.directions[n]) for n in one.layers)
    )
