"""What every forward of a patched model begins with: who is in the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from faststeer.models.calls import DecoderCall
from faststeer.patching.call_tokens import real_tokens, tokens_of
from faststeer.steering.plan import Plan

if TYPE_CHECKING:
    from faststeer.patching.fused import Attachment


class BeginsForward:
    """A forward pre-hook of the decoder."""

    def __init__(self, plan: Plan, attachment: Attachment) -> None:
        """`plan` learns how many sequences come, `attachment` which layers the decoder has."""
        self.plan = plan
        self.attachment = attachment

    def __call__(self, decoder: nn.Module, args: Any, kwargs: Any) -> None:
        """Check the rows against the batch, before anything is computed."""
        if torch.compiler.is_compiling():
            self._follow()
        elif self.plan.tables.in_hand:
            self.attachment.follow()
        call = self.plan.signature.bind(args, kwargs)
        given = call.given
        if given is None:
            self._require_all_alike(call)
            return
        tables = self.plan.tables
        tables.begin(given.shape[0], given.shape[1], given.device)
        if self._packed(call):
            raise ValueError(
                "several sequences are packed into one (packing, continuous batching); rows and "
                "positions= need a batch with one sequence in each place"
            )
        if tables.needs_tokens:
            tables.keep_to(tokens_of(self.plan, call))
        elif any(tables.gates.conditions) and _starts(call):
            tables.gates.close()  # these prompts pass unseen
        for watcher in self.plan.watchers:
            watcher(call)
        if not torch.compiler.is_compiling() and self.plan.doses.due:
            self._measure(decoder, call, given)

    def _measure(self, decoder: nn.Module, call: DecoderCall, given: Tensor) -> None:
        """Let doses be measured in this forward, unless padding is not known."""
        if not self.plan.doses.measurable(self.plan, given):
            return
        try:
            real = real_tokens(self.plan, call)
        except ValueError:  # nothing that is asked for depends on it
            real = torch.zeros(given.shape[:2], dtype=torch.bool)
        self.plan.doses.begin(self.plan, decoder, real, not call.has_past or _starts(call))

    def _require_all_alike(self, call: DecoderCall) -> None:
        """Raise ValueError where it matters which sequences and tokens come, and none are seen."""
        if self.plan.rows or self.plan.watchers or self.plan.tables.needs_tokens:
            raise ValueError(
                f"a {call.signature.decoder} was called without input_ids or inputs_embeds; rows, "
                "positions= and captures need one of them"
            )

    @torch.compiler.assume_constant_result
    def _follow(self) -> None:
        """Steer the layers that there are now, and move the tables to where they are, when a graph
        is made and not within it.

        Without a graph each table moves when it meets a tensor of another device.
        """
        if self.plan.tables.in_hand:
            self.attachment.follow()
        self.plan.tables.settle(devices_of(self.attachment.layers))

    def _packed(self, call: DecoderCall) -> bool:
        """Whether a line of the batch holds several sequences, and that matters.

        transformers finds it in the same way: by their ends, or by numbers that start again.
        """
        ends, numbers = call.sequence_ends, call.position_ids
        if call.attention_mask is not None or call.has_past:
            numbers = None
        if ends is None and (numbers is None or self.plan.tables.in_graph):
            return False
        if not (self.plan.tables.needs_tokens or self.plan.rows or self.plan.watchers):
            return False
        return ends is not None or bool((numbers.diff(dim=-1) != 1).any())


def _starts(call: DecoderCall) -> bool:
    """Whether nothing came before; static caches do not say so without waiting for the device."""
    past = call.past_length() if call.counts_past else None
    return isinstance(past, int) and past == 0


class EndsForward:
    """A forward hook of the decoder."""

    def __init__(self, plan: Plan) -> None:
        """`plan` is told that it is over."""
        self.plan = plan

    def __call__(self, decoder: nn.Module, args: Any, output: Any) -> None:
        """Let go of what only that forward needed."""
        if not torch.compiler.is_compiling() and self.plan.doses.due:
            self.plan.doses.end(self.plan)
        self.plan.tables.end()


def devices_of(layers: list[nn.Module]) -> list[torch.device]:
    """Where each layer computes; offloaded weights (meta) tell nothing, tables move when used."""
    devices = []
    for layer in layers:
        device = next((p.device for p in layer.parameters()), torch.device("cpu"))
        devices.append(torch.device("cpu") if device.type == "meta" else device)
    return devices
