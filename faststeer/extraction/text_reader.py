"""The interface of what reads activations of texts: a model in this process, or an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from faststeer.extraction.activation_batch import ActivationBatch
from faststeer.extraction.examples import Encoder, Example
from faststeer.extraction.read_token import ReadToken
from faststeer.extraction.selection import SinkCounts
from faststeer.utils.progress import Advance


class TextReader(Protocol):
    """What extraction needs of a reader; `ActivationReader` describes its methods.

    `decoder` has `get_input_embeddings`, and `calls` the method `batch`, as `TextCalls`.
    """

    tokenizer: Any
    read_token: ReadToken
    decoder: Any
    calls: Any
    encoder: Encoder
    sinks: SinkCounts
    layers: list[int]
    hidden_size: int
    num_layers: int
    device: torch.device

    def read(
        self,
        examples: Iterable[Example],
        batch_size: int,
        advance: Advance,
        shard: tuple[int, int] = (0, 1),
        watch: Callable[[Example], None] | None = None,
    ) -> Iterator[ActivationBatch]:
        """Yield the activations of each batch of examples."""

    def report(
        self, emit_warnings: bool = True, more: Sequence[str] = (), stacklevel: int = 3
    ) -> None:
        """Warn about what was met in the texts, with `more` warnings."""

    def keep_patched(self) -> AbstractContextManager[None]:
        """Return the context in which texts are read."""
