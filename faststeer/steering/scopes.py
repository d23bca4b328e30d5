"""Scopes: sets of token positions, and how they combine by `&`, `|` and `~`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from faststeer.steering.automata import TokenAutomaton
from faststeer.steering.token_positions import TokenPositions
from faststeer.vectors.position_range import PositionRange, position_range


class Scope(ABC):
    """A set of positions. `&`, `|` and `~` combine scopes, names such as "generated", and ranges.

    `key`: of a scope that depends on the tokens before, the name under which its state is kept;
    graphs read it, so that it is no object's identity. `automaton`: of a scope that looks at ids.
    """

    key: str | None = None
    automaton: TokenAutomaton | None = None

    @abstractmethod
    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""

    def __repr__(self) -> str:
        """Return the positions in words."""
        return f"Scope({self})"

    @property
    def generated(self) -> bool | None:
        """Whether every token after the prompt is in it, or none (False); None: it depends."""
        return None

    def parts(self) -> Iterator[Scope]:
        """Iterate over the scopes that it is made of, or itself."""
        yield self

    def needed(self) -> Iterator[Scope]:
        """Iterate over the parts without whose tokens this scope has none."""
        yield self

    def __and__(self, other: Scope | str | range | slice) -> Scope:
        """Return the positions that are in both."""
        operand = _scope_of_operand(other)
        return NotImplemented if operand is None else Intersection((self, operand))

    def __or__(self, other: Scope | str | range | slice) -> Scope:
        """Return the positions that are in at least one of the two."""
        operand = _scope_of_operand(other)
        return NotImplemented if operand is None else Union((self, operand))

    __rand__ = __and__
    __ror__ = __or__

    def __invert__(self) -> Scope:
        """Return the positions that are not in it."""
        return Complement(self)


@dataclass(frozen=True, repr=False)
class InRange(Scope):
    """The positions of a `PositionRange`."""

    range: PositionRange

    def __str__(self) -> str:
        """Return the positions as `repr` of a handle shows them."""
        return str(self.range)

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""
        ends = self.range
        found = tokens.positions >= 0
        if ends.start is not None:
            start = tokens.lengths + ends.start if ends.start_from_end else ends.start
            found = found & (tokens.positions >= start)
        if ends.stop is not None:
            stop = tokens.lengths + ends.stop if ends.stop_from_end else ends.stop
            found = found & (tokens.positions < stop)
        return found

    @property
    def generated(self) -> bool | None:
        """Whether every token after the prompt is in it, or none (False); None: it depends."""
        ends = self.range
        if ends.stop_from_end and ends.stop is not None and ends.stop <= 0:
            return False
        from_start = ends.start is None or (
            ends.start <= 0 if ends.start_from_end else ends.start == 0
        )
        return True if from_start and ends.stop is None else None


@dataclass(frozen=True, repr=False)
class _Combined(Scope):
    """Several scopes as one."""

    scopes: tuple[Scope, ...]

    def parts(self) -> Iterator[Scope]:
        """Iterate over the scopes that it is made of."""
        for own in self.scopes:
            yield from own.parts()

    def _joined(self, word: str) -> str:
        return word.join(
            f"({own})" if isinstance(own, _Combined) else str(own) for own in self.scopes
        )


class Intersection(_Combined):
    """The positions that are in all of its scopes."""

    def needed(self) -> Iterator[Scope]:
        """Iterate over the parts without whose tokens this scope has none."""
        for own in self.scopes:
            yield from own.needed()

    def __str__(self) -> str:
        """Return the scopes, joined by "and"."""
        return self._joined(" and ")

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""
        found = self.scopes[0].mask(tokens)
        for own in self.scopes[1:]:
            found = found & own.mask(tokens)
        return found

    @property
    def generated(self) -> bool | None:
        """Whether every token after the prompt is in it, or none (False); None: it depends."""
        each = [own.generated for own in self.scopes]
        return False if False in each else None if None in each else True


class Union(_Combined):
    """The positions that are in at least one of its scopes."""

    def __str__(self) -> str:
        """Return the scopes, joined by "or"."""
        return self._joined(" or ")

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""
        found = self.scopes[0].mask(tokens)
        for own in self.scopes[1:]:
            found = found | own.mask(tokens)
        return found

    @property
    def generated(self) -> bool | None:
        """Whether every token after the prompt is in it, or none (False); None: it depends."""
        each = [own.generated for own in self.scopes]
        return True if True in each else None if None in each else False


@dataclass(frozen=True, repr=False)
class Complement(Scope):
    """The positions that are not in another scope; padding is in neither."""

    scope: Scope

    def __str__(self) -> str:
        """Return the scope, negated."""
        return f"not ({self.scope})" if isinstance(self.scope, _Combined) else f"not {self.scope}"

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""
        return ~self.scope.mask(tokens) & (tokens.positions >= 0)

    @property
    def generated(self) -> bool | None:
        """Whether every token after the prompt is in it, or none (False); None: it depends."""
        inner = self.scope.generated
        return None if inner is None else not inner

    def parts(self) -> Iterator[Scope]:
        """Iterate over the scopes that it is made of."""
        yield from self.scope.parts()


def _scope_of_operand(given: object) -> Scope | None:
    """Return the scope that an operand of `&` or `|` stands for; None for another object."""
    if isinstance(given, Scope):
        return given
    if isinstance(given, (str, range, slice)):
        return InRange(position_range(given) or PositionRange())
    return None
