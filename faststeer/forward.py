"""What every forward of a patched model begins with: who is in the batch."""

from __future__ import annotations

from typing import Any

from torch import nn

from faststeer.plan import Plan
from faststeer.prompts import tokens_of

# The decoder's arguments, as far as they matter here, where they are given by position.
_ORDER = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds")


class BeginsForward:
    """A forward pre-hook of the decoder."""

    def __init__(self, plan: Plan) -> None:
        """`plan` is told how many sequences come."""
        self.plan = plan

    def __call__(self, decoder: nn.Module, args: Any, kwargs: Any) -> None:
        """Check the rows against the batch, before anything is computed."""
        named = {**dict(zip(_ORDER, args, strict=False)), **kwargs}
        given = named.get("input_ids")
        if given is None:
            given = named.get("inputs_embeds")
        if given is None:
            return  # the decoder says what is missing
        self.plan.begin(given.shape[0], given.device)
        if self.plan.needs_tokens:
            self.plan.keep_to(tokens_of(self.plan, given, named))


class EndsForward:
    """A forward hook of the decoder."""

    def __init__(self, plan: Plan) -> None:
        """`plan` is told that it is over."""
        self.plan = plan

    def __call__(self, decoder: nn.Module, args: Any, output: Any) -> None:
        """Let go of what only that forward needed."""
        self.plan.end()
