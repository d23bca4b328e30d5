"""Follow the rows of a cache: beam search reorders them, and other code repeats or selects them.

What is kept of the sequences has to move with their keys and values. A cache is asked to by its
methods alone, which are wrapped on each cache that is followed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from faststeer.steering.sequence_memory import SequenceMemory


def _as_given(lines: Tensor, rows: int) -> Tensor:
    return lines


def _repeated(repeats: int, rows: int) -> Tensor:
    return torch.arange(rows).repeat_interleave(repeats)


# Methods of transformers' caches, and which rows the new ones were.
_METHODS: dict[str, Callable[[Any, int], Tensor]] = {
    "reorder_cache": _as_given,
    "batch_select_indices": _as_given,
    "batch_repeat_interleave": _repeated,
}


class _Followed:
    """A method of a cache that reorders its rows, and those of the memory that belongs to it."""

    def __init__(self, cache: object, name: str, memory: SequenceMemory) -> None:
        self.cache = ref(cache)  # the cache holds this: no cycle may keep its tensors
        self.name = name
        self.memory = ref(memory)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        cache, memory = self.cache(), self.memory()
        found = getattr(type(cache), self.name)(cache, *args, **kwargs)
        if memory is not None and memory.belongs_to(cache):
            (given,) = (*args, *kwargs.values())
            memory.reorder(_METHODS[self.name](given, memory.sequences))
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy of the cache, and a pickled one, have the method of its class."""
        return getattr, (self.cache(), self.name)


def follow(cache: object, memory: SequenceMemory, decoder: str) -> None:
    """Wrap the methods of a cache that reorder its rows. Idempotent.

    `decoder`: the class that got it, for the message.

    Raises:
        ValueError: a past of another kind, whose rows could move unseen.
    """
    if not hasattr(cache, "__dict__") or not hasattr(type(cache), "reorder_cache"):
        raise ValueError(
            f"a scope of what is written, or a condition with a hysteresis, has to follow the rows "
            f"of the past, and a {decoder} got a {type(cache).__name__}, which may reorder them "
            "unseen: use a cache of transformers, or generate with use_cache=False"
        )
    for name in _METHODS:
        known = cache.__dict__.get(name)
        if isinstance(known, _Followed) and known.memory() is memory:
            continue
        if hasattr(type(cache), name):
            cache.__dict__[name] = _Followed(cache, name, memory)
