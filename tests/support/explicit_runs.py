"""Logits and residual streams of a stock model, steered by plain hooks at chosen tokens."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from faststeer import SteeringVector

Term = tuple[SteeringVector, float, int]  # vector, coefficient, layer


def explicit_run(
    model: Any, layers: Any, ids: list[int], terms: list[Term], tokens: slice = slice(None)
) -> tuple[Tensor, list[Tensor]]:
    """Return logits ``[T, V]`` and the stream after each layer ``[T, H]``, all of it float64.

    `terms` are added at `resid_post`, at `tokens` alone. One text without padding.
    """
    streams: dict[int, Tensor] = {}

    def hook(layer: int) -> Any:
        def after(module: nn.Module, args: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            for vector, coefficient, at in terms:
                if at == layer:
                    hidden[:, tokens] += coefficient * vector.directions[layer]
            streams[layer] = hidden[0].double()
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return after

    with ExitStack() as stack, torch.no_grad():
        for number, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(hook(number)).remove)
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].double()
    return logits, [streams[number] for number in sorted(streams)]


def explicit_kl(before: Tensor, after: Tensor) -> Tensor:
    """Return KL(before || after) ``[T]`` in nats, from logits ``[T, V]``."""
    logs = before.log_softmax(-1), after.log_softmax(-1)
    return (logs[0].exp() * (logs[0] - logs[1])).sum(-1)


def answers_of(patched: Any, model: Any, ids: list[int], setting: Any, count: int) -> list[int]:
    """Return the greedy answer to a prompt under one setting."""
    with patched.rows([setting]):
        given = torch.tensor([ids])
        return model.generate(given, max_new_tokens=count, do_sample=False)[0, len(ids) :].tolist()
