"""Tiny models that vLLM can serve, and vectors for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from faststeer import SteeringVector


@dataclass(frozen=True)
class Tiny:
    """A tiny model in transformers and in a folder, and vectors for it, in a folder too."""

    model: PreTrainedModel
    folder: Path
    vectors: dict[str, SteeringVector]
    vectors_folder: Path


MakeServed = Callable[..., Tiny]
