"""What is kept of sequences from token to token: the state of scopes and of conditions by token.

A state belongs to a row of the batch and a column of the cache. A forward over columns [s, s + T)
starts from what stands at column s - 1 and writes its own; what stands behind is ignored from then
on. So tokens that assisted decoding rejects leave no trace, chunks of a prompt join, and a cache
that was cropped resumes from where it was cropped. The states are those of one cache, and follow it
where its rows are reordered. They are tensors at fixed addresses, which graphs read and write.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from faststeer.steering.token_positions import TokenPositions
from faststeer.utils.warnings import FaststeerWarning

FEWEST_SEQUENCES = 256
COLUMNS = 512  # that are kept, the last ones: a cache may be cropped by as many
_UNKNOWN = -1


class _Kept:
    """One state per row and column: column c is at place c % COLUMNS.

    `states` ``[R, COLUMNS]`` int32, `columns` ``[COLUMNS]`` int64: which column is at each place;
    `end`: the first column that is not known.
    """

    def __init__(self, sequences: int, device: torch.device) -> None:
        with torch.inference_mode(False):
            shape = (sequences, COLUMNS)
            self.states = torch.full(shape, _UNKNOWN, dtype=torch.int32, device=device)
            self.columns = torch.full((COLUMNS,), _UNKNOWN, dtype=torch.int64, device=device)
            self.end = torch.zeros((), dtype=torch.int64, device=device)
        self.stay()

    def stay(self) -> None:
        """Mark the tensors as static, as those of `DeviceTables`."""
        for table in (self.states, self.columns, self.end):
            torch._dynamo.mark_static_address(table)


class SequenceMemory:
    """The states of the sequences of one cache, by the key of the scope or condition."""

    def __init__(self, device: torch.device) -> None:
        """Create an empty memory for forward passes that start on `device`."""
        self.device = device
        self.read_by_graphs = False
        self._kept: dict[str, _Kept] = {}
        self._owner: ref[Any] | None = None
        self.sequences = 0  # of the cache that is followed
        self._room = FEWEST_SEQUENCES
        self._graph = False  # the running forward becomes one
        self._before: dict[str, Tensor] = {}  # in the running forward: the states it starts from

    @property
    def is_used(self) -> bool:
        """Whether any scope or condition keeps states."""
        return bool(self._kept)

    def keep(self, keys: Collection[str]) -> None:
        """Keep states for these keys, and drop all others."""
        for key in [key for key in self._kept if key not in keys]:
            del self._kept[key]
        for key in keys:
            self._of(key)

    def move(self, device: torch.device) -> None:
        """Follow the batches to a device; what was kept on another is lost."""
        if device != self.device:
            self.device = device
            self._kept = {key: _Kept(self._room, device) for key in self._kept}

    def make_room(self, sequences: int) -> None:
        """Grow where needed, at least twofold."""
        if sequences <= self._room:
            return
        if self.read_by_graphs:
            warnings.warn(
                f"scopes or conditions keep the state of {sequences} sequences, more than ever: "
                "compiled models will recompile, and captured CUDA graphs must be recaptured",
                FaststeerWarning,
                stacklevel=2,
            )
        self._room = max(sequences, 2 * self._room)
        for kept in self._kept.values():
            with torch.inference_mode(False):
                room = kept.states.new_full((self._room, COLUMNS), _UNKNOWN)
                room[: len(kept.states)] = kept.states
                kept.states = room
            kept.stay()

    def begin(self, graph: bool) -> None:
        """Start a forward. `graph`: it becomes one."""
        self._graph = graph
        if not graph:
            self._before.clear()
        elif self._kept:
            self.read_by_graphs = True

    def follow(self, cache: object | None, sequences: int) -> None:
        """Keep the states of the sequences of a cache; those of another are forgotten.

        `cache`: None where the forward has none, or makes one. Graphs do not ask.
        """
        owner = None if self._owner is None else self._owner()
        if cache is None or owner is not cache or sequences != self.sequences:
            self.forget()
            self._owner = None if cache is None else ref(cache)
        self.sequences = sequences
        self.make_room(sequences)

    def adopt(self, cache: object) -> None:
        """Let what the last forward wrote be the states of the cache that it made."""
        if self._owner is None:
            self._owner = ref(cache)

    def belongs_to(self, cache: object) -> bool:
        """Return whether the states are those of the sequences of this cache."""
        return self._owner is not None and self._owner() is cache

    def reorder(self, lines: Tensor) -> None:
        """Let row i be what row ``lines[i]`` was: beams were chosen, rows repeated or left out."""
        lines = lines.to(self.device)
        self.make_room(len(lines))
        for kept in self._kept.values():
            kept.states[: len(lines)] = kept.states.index_select(0, lines)
        self.sequences = len(lines)

    def forget(self) -> None:
        """Forget all states."""
        for kept in self._kept.values():
            kept.end.zero_()

    @contextmanager
    def fresh(self, nested: bool) -> Iterator[None]:
        """Inside, follow the cache of a `generate`; one that is nested in another restores its."""
        if not (nested and self._kept):
            yield
            return
        owner, sequences = self._owner, self.sequences
        saved = {
            key: (own.states.clone(), own.columns.clone(), own.end.clone())
            for key, own in self._kept.items()
        }
        try:
            yield
        finally:
            self._owner, self.sequences = owner, sequences
            for key, own in self._kept.items():
                if key not in saved:
                    own.end.zero_()
                    continue
                states, columns, end = saved[key]
                own.states[: len(states)] = states
                own.columns.copy_(columns)
                own.end.copy_(end)

    def before(self, key: str, tokens: TokenPositions) -> Tensor:
        """Return the state ``[B]`` int64 that the tokens of a forward start from; 0 at column 0.

        Raises:
            ValueError: it is not known; RuntimeError where a decode step or a graph finds that.
        """
        if not self._graph and key in self._before:  # a graph that looked would depend on it
            return self._before[key]
        batch = len(tokens.positions)
        kept = self._with_room(key, batch)
        last = tokens.columns[:1].to(self.device) - 1
        place = last % COLUMNS
        states = kept.states[:batch].index_select(1, place)[:, 0].long()
        starts = last < 0
        held = (kept.columns[place] == last) & (last < kept.end) & (states >= 0).all()
        message = (
            "a scope of what is written, or a condition by token, has not seen the tokens before "
            "these: give the cache that the forward passes before filled while the same scope was "
            f"active, cropped by at most {COLUMNS} tokens, or the whole sequences"
        )
        if self._graph or tokens.positions.shape[1] == 1:  # a step does not wait for the device
            torch._assert_async((starts | held).all(), message)
        elif not bool(starts | held):
            raise ValueError(message)
        found = torch.where(starts, 0, states)
        if not self._graph:
            self._before[key] = found
        return found

    def write(self, key: str, tokens: TokenPositions, states: Tensor) -> None:
        """Keep the states ``[B, T]`` after each token of a forward."""
        kept = self._with_room(key, len(states))
        columns = tokens.columns[-COLUMNS:].to(self.device)
        places = columns % COLUMNS
        last = states[:, -COLUMNS:].to(kept.states)
        kept.states[: len(last)].index_copy_(1, places, last)
        kept.columns.index_copy_(0, places, columns)
        kept.end.copy_(columns[-1] + 1)

    def last(self, key: str) -> Tensor:
        """Return the states ``[B]`` after the last token that was seen; ``[0]`` if none was."""
        kept = self._of(key)
        if not int(kept.end):
            return kept.states[:0, 0]
        return kept.states[: self.sequences, int(kept.end - 1) % COLUMNS]

    def _with_room(self, key: str, sequences: int) -> _Kept:
        kept = self._of(key)
        if sequences > len(kept.states):  # a graph cannot grow
            raise ValueError(
                f"scopes and conditions by token have room for {len(kept.states)} sequences; call "
                f"reserve(rows={sequences}) before compiling or capturing"
            )
        return kept

    def _of(self, key: str) -> _Kept:
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = _Kept(self._room, self.device)
        return kept
