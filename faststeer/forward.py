"""What every forward of a patched model begins with: who is in the batch."""

from __future__ import annotations

from typing import Any

from torch import nn

from faststeer.plan import Plan
from faststeer.prompts import tokens_of


class BeginsForward:
    """A forward pre-hook of the decoder."""

    def __init__(self, plan: Plan) -> None:
        """`plan` is told how many sequences come."""
        self.plan = plan

    def __call__(self, decoder: nn.Module, args: Any, kwargs: Any) -> None:
        """Check the rows against the batch, before anything is computed."""
        given = args[0] if args else kwargs.get("input_ids")
        if given is None:
            given = kwargs.get("inputs_embeds")
        if given is None:
            return  # the decoder says what is missing
        self.plan.begin(given.shape[0], given.device)
        if self.plan.needs_tokens:
            self.plan.keep_to(tokens_of(self.plan, given, kwargs))


class EndsForward:
    """A forward hook of the decoder."""

    def __init__(self, plan: Plan) -> None:
        """`plan` is told that it is over."""
        self.plan = plan

    def __call__(self, decoder: nn.Module, args: Any, output: Any) -> None:
        """Let go of what only that forward needed."""
        self.plan.end()
