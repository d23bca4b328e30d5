"""Finite automata over token ids: they find a marker while a sequence is being written.

A state is one number per sequence, and each token moves it by a table that is looked up on the
device: a step of decoding costs one lookup, whatever the marker's length. A marker given as text is
compared character by character within each token, so that it is found whichever tokens hold it:
byte-level BPE merges its last character with what follows ("</think>" before a blank line).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

Symbol = str | int | None  # a character or a token id; None is any that no marker holds
Step = Callable[
    [int, Symbol], tuple[int, bool]
]  # (state, symbol) -> (state, is a marker complete?)


class Tables(NamedTuple):
    """The tables of an automaton of Q states over C classes of tokens, on one device.

    `classes` ``[2 + largest id + 1]``: of padding, of each id, and of any larger id. `moves`
    ``[Q, C]`` int64; `completes` ``[Q, C]`` bool: whether the token completes a marker; `inside`
    ``[Q]`` bool: whether the token that follows is in the scope.
    """

    classes: Tensor
    moves: Tensor
    completes: Tensor
    inside: Tensor


class TokenAutomaton:
    """An automaton that starts in state 0, with its tables on every device that asked for them."""

    def __init__(
        self, symbols: Mapping[int, Sequence[Symbol]], rules: tuple[int, Step, range]
    ) -> None:
        """Make the tables.

        Args:
            symbols: what each token id writes; ids that are left out write what no marker holds.
            rules: how many states there are, what moves one by a symbol, and those whose next token
                is in the scope, as `seen_once` and `enclosed` return them.
        """
        states, step, inside = rules
        columns: dict[tuple[tuple[int, bool], ...], int] = {}
        seen: dict[tuple[Symbol, ...], int] = {}

        def class_of(text: Sequence[Symbol]) -> int:
            known = tuple(text)
            if known not in seen:
                column = tuple(_moved(state, known, step) for state in range(states))
                seen[known] = columns.setdefault(column, len(columns))
            return seen[known]

        padding, other = class_of(()), class_of((None,))
        classes = [padding, *[other] * (max(symbols) + 2)]
        for token, text in symbols.items():
            classes[token + 1] = class_of(text)
        table = list(columns)
        self.states = states
        self._tables = Tables(
            torch.tensor(classes),
            torch.tensor([[column[state][0] for column in table] for state in range(states)]),
            torch.tensor([[column[state][1] for column in table] for state in range(states)]),
            torch.tensor([state in inside for state in range(states)]),
        )
        self._placed: dict[torch.device, Tables] = {}

    def on(self, device: torch.device) -> Tables:
        """Return the tables on a device, copied there once."""
        placed = self._placed.get(device)
        if placed is None:
            with torch.inference_mode(False):
                placed = Tables(*(own.to(device) for own in self._tables))
            for own in placed:
                torch._dynamo.mark_static_address(own)  # as DeviceTables
            self._placed[device] = placed
        return placed

    def run(self, start: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states ``[B, T]`` before and after each token of ids ``[B, T]``.

        `start`: ``[B]`` int64, before the first. Ids below 0 are padding and move nothing.
        """
        tables = self.on(ids.device)
        classes = self._classes(ids, tables)
        if ids.shape[1] == 1:
            return start[:, None], tables.moves[start, classes[:, 0]][:, None]
        # Functions of states are composed in pairs, so that n tokens take log2(n) operations.
        moves = tables.moves.t()[classes]  # [B, T, Q]
        done = 1
        while done < ids.shape[1]:
            joined = moves[:, done:].gather(2, moves[:, :-done])
            moves = torch.cat([moves[:, :done], joined], 1)
            done *= 2
        after = moves.gather(2, start[:, None, None].expand(*ids.shape, 1))[..., 0]
        return torch.cat([start[:, None], after[:, :-1]], 1), after

    def completes_alone(self, ids: Tensor) -> Tensor:
        """Return which tokens of ids ``[B, T]`` are a whole marker, bool."""
        tables = self.on(ids.device)
        return tables.completes[0][self._classes(ids, tables)]

    def completions(self, ids: Tensor) -> Tensor:
        """Return which tokens of whole sequences ``[B, T]`` complete a marker, bool."""
        tables = self.on(ids.device)
        before, _ = self.run(torch.zeros_like(ids[:, 0]), ids)
        return tables.completes[before, self._classes(ids, tables)]

    def _classes(self, ids: Tensor, tables: Tables) -> Tensor:
        return tables.classes[(ids + 1).clamp(0, len(tables.classes) - 1)]


def one_of() -> tuple[int, Step, range]:
    """Return states, step and inside of an automaton that completes at every symbol it knows."""
    return 1, lambda state, symbol: (0, symbol is not None), range(0)


def seen_once(marker: Sequence[Symbol]) -> tuple[int, Step, range]:
    """Return states, step and inside of an automaton that is inside behind a marker, for good.

    It completes at each occurrence.
    """
    count, find = len(marker), partial(_matched, marker, _failures(marker))

    def step(state: int, symbol: Symbol) -> tuple[int, bool]:
        seen, partly = divmod(state, count)
        partly, complete = find(partly, symbol)
        return (seen or int(complete)) * count + partly, complete

    return 2 * count, step, range(count, 2 * count)


def enclosed(opening: Sequence[Symbol], closing: Sequence[Symbol]) -> tuple[int, Step, range]:
    """Return states, step and inside of an automaton that is inside between two markers.

    Inside only the closing one is looked for, and outside only the opening one.
    """
    first = len(opening)
    find_opening = partial(_matched, opening, _failures(opening))
    find_closing = partial(_matched, closing, _failures(closing))

    def step(state: int, symbol: Symbol) -> tuple[int, bool]:
        if state < first:
            partly, complete = find_opening(state, symbol)
            return (first, True) if complete else (partly, False)
        partly, complete = find_closing(state - first, symbol)
        return (0, True) if complete else (first + partly, False)

    return first + len(closing), step, range(first, first + len(closing))


def _moved(state: int, text: Sequence[Symbol], step: Step) -> tuple[int, bool]:
    complete = False
    for symbol in text:
        state, now = step(state, symbol)
        complete = complete or now
    return state, complete


def _failures(marker: Sequence[Symbol]) -> list[int]:
    """Return, for each number of matched symbols, the next smaller one that may match too.

    Knuth, Morris and Pratt, 1977.
    """
    found = [0, 0]
    for at in range(1, len(marker)):
        shorter = found[at]
        while shorter and marker[shorter] != marker[at]:
            shorter = found[shorter]
        found.append(shorter + (marker[shorter] == marker[at]))
    return found


def _matched(
    marker: Sequence[Symbol], failures: Sequence[int], matched: int, symbol: Symbol
) -> tuple[int, bool]:
    """Return how many symbols of the marker are matched after one more, and whether all were."""
    while matched and marker[matched] != symbol:
        matched = failures[matched]
    matched += marker[matched] == symbol
    return (failures[matched], True) if matched == len(marker) else (matched, False)
