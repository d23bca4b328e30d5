"""Hooks of the decoder: what a forward pass does before its first layer, and after its last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import nn

from faststeer.models.calls import DecoderCall, DecoderSignature, made_past
from faststeer.ops.functional import are_watched
from faststeer.patching.call_tokens import CallTokens
from faststeer.patching.followed_cache import follow
from faststeer.steering.plan import Plan


class AttachedDecoder(Protocol):
    """What the hooks know of the decoder: `faststeer.patching.attachment.Attachment`."""

    plan: Plan
    signature: DecoderSignature
    layers: list[nn.Module]
    peft_models: list[nn.Module]

    def follow(self) -> None:
        """Steer the layers that the decoder has now."""


class StartForward:
    """A forward pre-hook of the decoder: starts the plan's forward with the batch that comes."""

    def __init__(self, attached: AttachedDecoder) -> None:
        """Create the hook of a decoder."""
        self.plan = attached.plan
        self.attached = attached

    def __call__(self, decoder: nn.Module, args: Any, kwargs: Any) -> None:
        """Check the batch against rows and positions, before anything is computed."""
        plan, forward = self.plan, self.plan.forward
        compiling = torch.compiler.is_compiling()
        if compiling:
            self._follow()
        else:
            if plan.tables.has_handle:
                self.attached.follow()
            forward.direct = not are_watched()
        call = self.attached.signature.bind(args, kwargs)
        given = call.given
        if given is None:
            self._require_all_alike(call)
            return
        sequences, count = given.shape[:2]
        plan.begin(sequences, count, given.device)
        # A graph would depend on each of these.
        if not (compiling or forward.asks_for_tokens or plan.rows or plan.doses.due):
            return
        if self._packed(call):
            raise ValueError(
                "several sequences are packed into one (packing, continuous batching); rows and "
                "positions= need a batch with one sequence in each place"
            )
        tokens = CallTokens(forward, call, given, self.attached.peft_models)
        if forward.memory.is_used and not forward.in_graph:
            self._follow_cache(call, sequences)
        if forward.needs_tokens:
            simple = tokens.only_generated() and forward.select_generated()
            if not simple:
                forward.select(tokens.positions())
        elif any(forward.gates.conditions) and _starts(call):
            forward.gates.close()  # no decision is made on these prompts
        for watcher in forward.watchers:
            watcher(tokens)
        if not compiling and plan.doses.due:
            self._measure_doses(decoder, tokens)

    def _follow_cache(self, call: DecoderCall, sequences: int) -> None:
        """Let what is kept of sequences be of those of this call's cache."""
        memory, cache = self.plan.forward.memory, call.cache
        if cache is not None:
            follow(cache, memory, call.signature.decoder)
        memory.follow(cache, sequences)

    def _measure_doses(self, decoder: nn.Module, tokens: CallTokens) -> None:
        """Measure doses in this forward, unless padding is not known."""
        if not self.plan.measures_dose(tokens.given):
            return
        try:
            real = tokens.real()
        except ValueError:  # nothing that was requested depends on it
            real = torch.zeros(tokens.given.shape[:2], dtype=torch.bool)
        first = not tokens.call.has_past or _starts(tokens.call)
        self.plan.doses.begin(self.plan.interventions, decoder, real, first)

    def _require_all_alike(self, call: DecoderCall) -> None:
        """Raise ValueError where sequences or tokens matter, and the call shows none."""
        forward = self.plan.forward
        if self.plan.rows or forward.watchers or forward.needs_tokens:
            raise ValueError(
                f"a {call.signature.decoder} was called without input_ids or inputs_embeds; rows, "
                "positions= and captures need one of them"
            )

    @torch.compiler.assume_constant_result
    def _follow(self) -> None:
        """Follow layers and devices when a graph is made, and not within it.

        Without a graph each table moves when it meets a tensor of another device.
        """
        if self.plan.tables.has_handle:
            self.attached.follow()
        self.plan.tables.follow_devices(devices_of(self.attached.layers))

    def _packed(self, call: DecoderCall) -> bool:
        """Return whether a line of the batch holds several sequences, and that matters.

        Found as transformers does: by their ends, or by position ids that start again.
        """
        ends, position_ids = call.sequence_ends, call.position_ids
        if call.attention_mask is not None or call.has_past:
            position_ids = None
        forward = self.plan.forward
        if ends is None and (position_ids is None or forward.in_graph):
            return False
        if not (forward.needs_tokens or self.plan.rows or forward.watchers):
            return False
        return ends is not None or bool((position_ids.diff(dim=-1) != 1).any())


def _starts(call: DecoderCall) -> bool:
    """Return whether the past is empty; False for a static cache: asking blocks on the device."""
    past = call.past_length() if call.counts_past else None
    return isinstance(past, int) and past == 0


class EndForward:
    """A forward hook of the decoder: ends the plan's forward."""

    def __init__(self, plan: Plan) -> None:
        """Create the hook of a plan."""
        self.plan = plan

    def __call__(self, decoder: nn.Module, args: Any, output: Any) -> None:
        """Release what only that forward needed."""
        if not torch.compiler.is_compiling():
            self.plan.forward.direct = False
            if self.plan.doses.due:
                self.plan.doses.end()
            memory = self.plan.forward.memory
            if memory.is_used and (cache := made_past(output)) is not None:
                follow(cache, memory, type(decoder).__name__)
                memory.adopt(cache)
        self.plan.end()


def devices_of(layers: Sequence[nn.Module]) -> list[torch.device]:
    """Return where each layer computes; the CPU for offloaded weights, whose tables move on use."""
    devices = []
    for layer in layers:
        device = next((p.device for p in layer.parameters()), torch.device("cpu"))
        devices.append(torch.device("cpu") if device.type == "meta" else device)
    return devices
