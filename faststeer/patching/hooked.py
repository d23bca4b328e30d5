"""Patch a decoder of an unknown family: one hook per layer steers it, and nothing is fused."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Size, Tensor, nn

from faststeer.models.decoders import Blocks, known, require_distinct
from faststeer.models.residual_stream import EmbeddingSteering
from faststeer.models.stream_layout import PLAIN, StreamLayout
from faststeer.patching.attachment import Attachment
from faststeer.patching.class_swap import make_subclassed, restore_class
from faststeer.steering.plan import Plan
from faststeer.steering.site_table import SiteTable
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.sites import Site


class HookedStream:
    """The residual stream of a decoder that is steered by hooks.

    Its layout is found when a forward starts, and only where sequences or tokens are distinguished.
    """

    def __init__(self, plan: Plan, decoder: str, hidden_size: int) -> None:
        """Create the stream. `decoder`: its class name; its stream is `hidden_size` wide."""
        self.plan = plan
        self.decoder = decoder
        self.hidden_size = hidden_size
        self.shape: Size | None = None  # None: all is steered alike, whatever the layout
        self.layout = PLAIN

    def begin(self, hidden: Tensor) -> None:
        """Find the layout of the first layer's input.

        Raises:
            ValueError: it is of another width, or cannot be steered or read as requested.
        """
        if hidden.shape[-1] != self.hidden_size:
            raise ValueError(
                f"the layers of a {self.decoder} are given {list(hidden.shape)}; its configuration "
                f"says that hidden states are {self.hidden_size} wide"
            )
        forward, is_read = self.plan.forward, self.plan.tables.is_read
        if self.plan.doses.measuring and not self._readable(hidden.shape):
            self.plan.doses.cancel()
        if not (forward.in_graph or self.plan.rows or forward.needs_tokens or is_read):
            self.shape, self.layout = None, PLAIN
            return
        self.shape, self.layout = hidden.shape, self._find(hidden.shape)

    def steered(self, hidden: Tensor, table: SiteTable) -> Tensor:
        """Return the stream after the entries of `table`; itself where there are none."""
        layout = self.layout
        if self.shape is not None and hidden.shape != self.shape:
            layout = self._find(hidden.shape)
        entries = table.entries(hidden)
        if entries[0] is not None:
            hidden = layout.steered(hidden, entries)
        for reader in table.readers:
            reader(layout.read(hidden))
        return hidden

    def _readable(self, shape: Size) -> bool:
        """Return whether there is one vector per token of the input."""
        try:
            layout = StreamLayout.find(shape, *self.plan.forward.batch_shape, self.decoder)
            layout.require_readable(shape, self.decoder)
        except ValueError:
            return False
        return True

    def _find(self, shape: Size) -> StreamLayout:
        layout = StreamLayout.find(shape, *self.plan.forward.batch_shape, self.decoder)
        if self.plan.forward.needs_tokens:
            layout.require_tokens(shape, self.decoder)
        if self.plan.tables.is_read:
            layout.require_readable(shape, self.decoder)
        return layout


class InputSteering(EmbeddingSteering):
    """A forward pre-hook that steers `resid_pre` of the first layer."""

    def __init__(self, table: SiteTable, layer: nn.Module, stream: HookedStream) -> None:
        """Steer the input of `layer` by the entries of `table`."""
        super().__init__(table, layer)
        self.stream = stream

    def steered(self, hidden: Tensor) -> Tensor:
        """Return the steered input. Raises as `HookedStream.begin`."""
        self.stream.begin(hidden)
        return self.stream.steered(hidden, self.table)


class OutputSteering:
    """A forward hook that steers `resid_post` of a layer."""

    def __init__(self, table: SiteTable, stream: HookedStream) -> None:
        """Steer the layer's output by the entries of `table`."""
        self.table = table
        self.stream = stream

    def __call__(self, layer: nn.Module, args: Any, output: Any) -> Any:
        """Return the output with the hidden states steered, or None for no change.

        Raises:
            TypeError: an output that is neither hidden states nor begins with them.
        """
        first = output[0] if isinstance(output, (tuple, list)) and output else output
        if not isinstance(first, Tensor):
            raise TypeError(
                f"a {type(layer).__name__} returned a {type(first).__name__}; only layers that "
                "return hidden states, alone or as the first of several, can be steered"
            )
        changed = self.stream.steered(first, self.table)
        if changed is first:
            return None
        return changed if output is first else _with_first(output, changed, layer)


def _with_first(output: Any, first: Tensor, layer: nn.Module) -> Any:
    """Return a tuple or list of the same type with another first element."""
    if names := getattr(output, "_fields", None):
        if "hidden" not in names[0]:
            raise TypeError(
                f"a {type(layer).__name__} returned a {type(output).__name__} of "
                f"{', '.join(names)}; its first element has to be the hidden states"
            )
        return output._replace(**{names[0]: first})
    return [first, *output[1:]] if isinstance(output, list) else (first, *output[1:])


class HookPatch(Attachment):
    """The patch of an unknown family. Nothing is changed before `attach`."""

    kinds = ("resid_post",)

    def __init__(self, decoder: nn.Module, blocks: Blocks) -> None:
        """Check the decoder. Raises ValueError: unknown width, or a block that occurs twice."""
        self.blocks = blocks
        self.layers = blocks.of(decoder)
        require_distinct(decoder, self.layers)
        size = getattr(decoder.config, "hidden_size", None)
        if not isinstance(size, int):
            raise ValueError(
                f"the configuration of a {type(decoder).__name__} has no hidden_size: how wide its "
                "residual stream is, is not known"
            )
        self.hidden_size = size

    def current_layers(self, decoder: nn.Module) -> list[nn.Module]:
        """Return the blocks that the decoder has now."""
        return self.blocks.of(decoder)

    def put_on(self, decoder: nn.Module) -> None:
        """Register steering hooks in front of all others, which then see the steered output."""
        tables = self.plan.tables
        stream = HookedStream(self.plan, self.signature.decoder, self.hidden_size)
        embedding = InputSteering(tables[Site(0, "resid_pre")], self.layers[0], stream)
        self._hooks = self.register_start_and_end(decoder, embedding)
        for index, layer in enumerate(self.layers):
            make_subclassed(layer)  # code that was compiled before is not used for it
            hook = OutputSteering(tables[Site(index, "resid_post")], stream)
            self._hooks.append(layer.register_forward_hook(hook, prepend=True))

    def take_off(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        for layer in self.layers:
            restore_class(layer)

    def require_steerable(self, layer: nn.Module, what: str) -> None:
        """Accept any layer: all may have a hook."""


def warn_of_hooks(decoder: nn.Module) -> None:
    """Warn the caller of `patch` of what an unknown family lacks."""
    warnings.warn(
        f"{type(decoder).__name__} is not of a family that faststeer fuses ({known()}): hooks "
        "steer it, at the cost of one more op per layer, and resid_mid cannot be steered",
        FaststeerWarning,
        stacklevel=3,
    )
