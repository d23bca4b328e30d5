"""The scopes of the columns of an index, each evaluated once per forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from faststeer.steering.markers import After
from faststeer.steering.scopes import Scope
from faststeer.steering.token_positions import TokenPositions


class ScopeColumns:
    """One scope per column, None for every token.

    Attributes:
        scopes: as they were given.
        needed_markers: those without which some scope has no tokens.
    """

    def __init__(self, scopes: Sequence[Scope | None] = (None,)) -> None:
        """Find equal scopes: one that follows text keeps its states once."""
        self.scopes = list(scopes)
        self._first = [self.scopes.index(scope) for scope in self.scopes]
        parts = [part for own in self.scopes if own is not None for part in own.needed()]
        self.needed_markers = [part for part in dict.fromkeys(parts) if isinstance(part, After)]

    def masks(self, tokens: TokenPositions, in_graph: bool) -> Tensor:
        """Return which tokens are in each scope ``[B, T, K]`` bool.

        Warns of prompts that lack a needed marker. Those of a `generate` are looked up before, and
        judged with its answers.

        Raises:
            ValueError: as `Scope.mask`.
        """
        ends = tokens.prompts.ends
        unseen = [] if in_graph else [own for own in self.needed_markers if own.key not in ends]
        found: list[Tensor] = []
        for column, scope in enumerate(self.scopes):
            if (first := self._first[column]) < column:
                found.append(found[first])
            elif scope is None:
                found.append(torch.ones_like(tokens.positions, dtype=torch.bool))
            else:
                found.append(scope.mask(tokens))
        for marker in unseen:
            marker.warn_of_absence(tokens.prompts)
        return torch.stack(found, 2)
