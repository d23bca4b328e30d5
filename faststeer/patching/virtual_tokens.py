"""PEFT models that prepend virtual tokens, which shift all positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn


def require_own_tokens(wrappers: Sequence[nn.Module]) -> None:
    """Raise ValueError where a PEFT model around the decoder adds tokens to each prompt."""
    for wrapper in wrappers:
        config: Any = getattr(wrapper, "active_peft_config", None)
        if getattr(config, "is_prompt_learning", False):
            raise ValueError(
                f"{type(config).__name__} puts virtual tokens of PEFT in front of each prompt, "
                "which shift every position: steer all positions, or disable that adapter"
            )


def wrappers_of(model: nn.Module, decoder: nn.Module) -> list[nn.Module]:
    """Return the PEFT models around `decoder`."""
    return [
        module
        for module in model.modules()
        if hasattr(type(module), "active_peft_config")
        and any(part is decoder for part in module.modules())
    ]
