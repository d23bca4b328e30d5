"""Steering a decoder whose layers are not known from within: a hook on each, and nothing fused."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from faststeer.attaching import beginning
from faststeer.bank import Site
from faststeer.finding import known
from faststeer.forward import devices_of
from faststeer.ops import FaststeerWarning
from faststeer.plan import Plan
from faststeer.stream import steered
from faststeer.table import Table


class OutputSteering:
    """A forward hook of a layer, for its `resid_post`."""

    def __init__(self, table: Table) -> None:
        """`table`: the entries to add to the layer's output."""
        self.table = table

    def __call__(self, layer: nn.Module, args: Any, output: Any) -> Any:
        """The output with the hidden states steered, or None for no change.

        Raises:
            TypeError: an output that is neither hidden states nor begins with them.
        """
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, Tensor):
            raise TypeError(
                f"a {type(layer).__name__} returned a {type(first).__name__}; only layers that "
                "return hidden states, alone or as the first of several, can be steered"
            )
        changed = steered(first, self.table)
        if changed is first:
            return None
        if output is first:
            return changed
        return [changed, *output[1:]] if isinstance(output, list) else (changed, *output[1:])


class Hooked:
    """A decoder of an unknown family. Nothing is changed before `attach`."""

    def __init__(self, decoder: nn.Module, layers: list[nn.Module]) -> None:
        """`layers`: its blocks, in order."""
        self.layers = layers
        config: Any = decoder.config
        self.hidden_size = int(config.hidden_size)

    def attach(self, decoder: nn.Module) -> None:
        """Let hooks read the tables of a new `plan`, before anybody else's see the output.

        The plan has tables for what goes in and out of layers.
        """
        self.plan = Plan.for_layers(
            decoder, devices_of(self.layers), self.hidden_size, ("resid_post",)
        )
        self._hooks = beginning(decoder, self.layers, self.plan)
        for index, layer in enumerate(self.layers):
            hook = OutputSteering(self.plan.tables[Site(index, "resid_post")])
            self._hooks.append(layer.register_forward_hook(hook, prepend=True))

    def detach(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()


def warn_of_hooks(decoder: nn.Module) -> None:
    """Say, to the caller of `patch`, what an unknown family lacks."""
    warnings.warn(
        f"{type(decoder).__name__} is no decoder whose parts faststeer knows ({known()}): hooks "
        "steer it, at the cost of an op a layer and of fusion, and resid_mid cannot be steered",
        FaststeerWarning,
        stacklevel=3,
    )
