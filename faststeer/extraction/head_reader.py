"""Reading the outputs of attention heads: what the output projection of attention is given."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from faststeer.extraction.bf16_linear import fastest_linear
from faststeer.extraction.early_exit import Select
from faststeer.extraction.reader import ActivationReader
from faststeer.models.attention_heads import AttentionHeads
from faststeer.patching.patched import Patched


class HeadReader(ActivationReader):
    """An `ActivationReader` of the heads' outputs ``[heads * d]`` in place of the stream."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        layers: str | int | Sequence[int],
        read_token: int,
        max_length: int | None,
        add_special_tokens: bool,
    ) -> None:
        """Check the arguments, which are those of `faststeer.probe_heads`, as are the errors."""
        self.heads = AttentionHeads(model)
        super().__init__(
            model,
            tokenizer,
            layers,
            "resid_mid",
            read_token,
            max_length,
            add_special_tokens,
            keep_sinks=True,  # one token is read, and norms are those of the stream
        )
        self.shapes = {layer: self.heads.columns(layer) for layer in self.layers}

    def _read_call(
        self, patched: Patched, select: Select, given: dict[str, Any]
    ) -> dict[int, Tensor]:
        """Run a forward pass and return `select` of each layer's heads' outputs."""
        found: dict[int, Tensor] = {}

        def read(layer: int, module: nn.Module, args: tuple[Any, ...]) -> None:
            self.dtype = args[0].dtype
            found[layer] = select(layer, args[0])

        with ExitStack() as stack:
            for layer in self.layers:
                projection = self.heads.projection(layer)
                handle = projection.register_forward_pre_hook(partial(read, layer))
                stack.callback(handle.remove)
            stack.enter_context(fastest_linear(self.device))
            self.decoder(**given)
        return found
