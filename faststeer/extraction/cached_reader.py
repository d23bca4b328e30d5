"""A reader of activations that looks them up before it runs the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from faststeer.extraction.batch_cache import BatchCache
from faststeer.extraction.cache_files import Cache
from faststeer.extraction.examples import Example
from faststeer.extraction.reader import ActivationReader
from faststeer.utils.progress import Advance


class CachedReader(ActivationReader):
    """An `ActivationReader`, with `cache` False; else one that keeps what it reads.

    Texts are encoded and warnings are given with the cache as without it. Where the cache has all
    batches, neither the model runs nor is it patched.
    """

    def __init__(self, *arguments: Any, cache: Cache = False, **options: Any) -> None:
        """Check the arguments. Raises as `ActivationReader` and `BatchCache`."""
        super().__init__(*arguments, **options)
        self.cache: BatchCache | None = None
        if cache is not False:
            self.cache = BatchCache(cache, self.calls, self.site, self.layers, self.sinks)
            self.remember = self.cache.note

    def read_norms(
        self, ids: list[list[int]], norms: Callable[[Tensor], Tensor]
    ) -> dict[int, Tensor]:
        """Return what `read_all_tokens` returns for `norms`, the norm of each hidden state."""
        compute = partial(self.read_all_tokens, ids, norms)
        return self._look_up({"kind": "norms"}, [ids], compute, False)

    def read_all(
        self, examples: Iterable[Example], batch_size: int, advance: Advance
    ) -> list[Tensor]:
        """Return the activations of each example, ``[texts, L, H]`` float32 on the CPU, in order.

        Arguments and errors are those of `read`.
        """
        found: dict[int, Tensor] = {}
        with self.keep_patched():
            for batch in self.read(examples, batch_size, advance):
                rows = [batch.by_layer[layer].to("cpu", torch.float32) for layer in self.layers]
                each = len(batch.sides) // len(batch.indices)
                for number, index in enumerate(batch.indices):
                    own = slice(number * each, (number + 1) * each)
                    found[index] = torch.stack([layer[own] for layer in rows], 1)
        return [found[index] for index in sorted(found)]

    def _messages(self) -> list[str]:
        return [*super()._messages(), *([] if self.cache is None else self.cache.messages())]

    def _read_batch(self, batch: list[Example]) -> dict[int, Tensor]:
        compute = partial(super()._read_batch, batch)
        if self.cache is None:
            return compute()
        rows = [row for example in batch for row in example.rows()]
        pad = self.tokenizer.pad_token_id
        facts = {
            "kind": "read token",
            "read_token": self.read_token.facts(
                self.calls.batch([row.ids for row in rows], pad), rows
            ),
            "keep_sinks": self.keep_sinks,
            "whole_texts": self._whole_texts(),
            "pad": pad,
        }
        return self._look_up(
            facts, [example.ids for example in batch], compute, not self.keep_sinks
        )

    def _look_up(
        self,
        facts: Mapping[str, Any],
        ids: Sequence[list[list[int]]],
        compute: Callable[[], dict[int, Tensor]],
        counts_sinks: bool,
    ) -> dict[int, Tensor]:
        if self.cache is None:
            return compute()
        on_hit = partial(self._check_bos, [row for example in ids for row in example])
        return self.cache.read(facts, ids, compute, on_hit, counts_sinks)
