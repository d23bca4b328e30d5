"""Arguments and methods that transformers 5.24 renamed, under the name that a model uses."""

from __future__ import annotations

from typing import Any

from torch import nn

from faststeer.models.calls import past_argument, past_of

__all__ = ["enable_checkpointing", "past", "past_of"]


def past(model: nn.Module, cache: Any) -> dict[str, Any]:
    """Return the argument that passes `cache` to a model's forward or generate."""
    return {past_argument(model): cache}


def enable_checkpointing(model: Any, options: dict[str, Any]) -> None:
    """Enable gradient checkpointing."""
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)(options)
