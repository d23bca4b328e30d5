"""Token positions: where prompts end, and which tokens a forward pass holds.

A layer cannot tell a prompt from generated tokens: a prompt's last chunk may be one token, and
assisted decoding sends several. The end of a prompt is known from `generate`, from the caller, or
from a forward pass without a past.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from faststeer.steering.sequence_memory import SequenceMemory


@dataclass(frozen=True)
class MarkerEnds:
    """Where a marker ends in each prompt.

    `columns` ``[B]`` int64: the first behind its last occurrence; without one, a column that no
    token reaches. `everywhere`: whether all prompts hold it; None where only the device knows.
    """

    columns: Tensor
    everywhere: bool | None


@dataclass(frozen=True)
class PromptLayout:
    """The prompts of a batch, by their columns in the cache.

    `lengths` ``[B]`` int64: their tokens. `padding` ``[B]`` int64: columns before their ends that
    hold none. `ids` ``[B, P]``: -1 for padding; where they are known. `positions` ``[B, P]``: of
    each column, -1 for padding; left out where all padding is on the left. `ends`: where the
    markers of `faststeer.after` end, by `After.key`, as far as they were looked up; batches made of
    these prompts share them. `columns`: how many all prompts take, where that is known
    without asking the device; no graph may read it.
    """

    lengths: Tensor
    padding: Tensor
    ids: Tensor | None = None
    positions: Tensor | None = None
    ends: dict[str, MarkerEnds] = field(default_factory=dict)
    columns: int | None = None

    @classmethod
    def masked(cls, mask: Tensor, ids: Tensor | None) -> PromptLayout:
        """Build from an attention mask ``[B, P]`` (1 = real token)."""
        real = mask.bool()
        if ids is not None:
            ids = torch.where(real, ids, -1)
        lengths = real.sum(1)
        columns = real.shape[1]
        return cls(lengths, columns - lengths, ids, positions_of(real), columns=columns)

    def simplified(self) -> PromptLayout:
        """Drop `positions` where `padding` implies them, so that no graph depends on P."""
        if self.positions is None:
            return self
        regular = replace(self, positions=None)
        columns = torch.arange(self.positions.shape[1], device=self.positions.device)
        same = torch.equal(regular.at(columns).clamp(min=-1), self.positions)
        return regular if same else self

    def spread(self, sequences: int) -> PromptLayout:
        """Repeat for a batch with several consecutive sequences per prompt."""
        if sequences == self.lengths.shape[0]:
            return self
        return PromptLayout(
            repeat_for(self.lengths, sequences),
            repeat_for(self.padding, sequences),
            None if self.ids is None else repeat_for(self.ids, sequences),
            None if self.positions is None else repeat_for(self.positions, sequences),
            self.ends,
            self.columns,
        )

    def at(self, columns: Tensor) -> Tensor:
        """Return the positions ``[B, T]`` of columns ``[T]``, negative for padding."""
        regular = columns - self.padding[:, None]
        if self.positions is None:
            return regular
        last = self.positions.shape[1] - 1
        return torch.where(columns > last, regular, self.positions[:, columns.clamp(max=last)])


@dataclass(frozen=True)
class TokenPositions:
    """The tokens of one forward pass, on the device.

    `positions` ``[B, T]`` int64, negative for padding on the left; `lengths` ``[B, 1]`` int64, of
    the prompts; `columns` ``[T]`` int64, positions in the cache, padding included. `prompts` holds
    their ids: a graph that does not read them does not depend on how many there are. `ids`
    ``[B, T]``: of these tokens; None where the forward got embeddings alone. `past`: columns before
    these, on the device for a static cache. `memory`: what is kept from token to token; None where
    sequences are looked at as a whole.
    """

    positions: Tensor
    lengths: Tensor
    columns: Tensor
    prompts: PromptLayout
    ids: Tensor | None = None
    past: int | Tensor = 0
    memory: SequenceMemory | None = None


class BatchTokens(ABC):
    """The tokens of the forward pass that starts, as far as its caller knows them."""

    @abstractmethod
    def positions(self) -> TokenPositions:
        """Return their positions.

        Raises:
            ValueError: where the prompts end, how long the past is, or what is padding, is unknown.
        """

    @abstractmethod
    def only_generated(self) -> bool:
        """Return whether all tokens are known to come after the prompts; False where a graph is
        made. Raises as `positions` where the call contradicts itself.
        """

    @abstractmethod
    def real(self) -> Tensor:
        """Return which tokens are not padding, ``[B, T]`` bool. Raises as `positions`."""


def positions_of(real: Tensor) -> Tensor:
    """Return each column's position ``[B, P]``, -1 for padding, of a mask of real tokens."""
    return torch.where(real, real.cumsum(1) - 1, -1)


def repeat_for(given: Tensor, sequences: int) -> Tensor:
    """Repeat the lines of each prompt for a batch with several sequences per prompt."""
    prompts = given.shape[0]
    if sequences == prompts:
        return given
    if sequences % prompts:
        raise ValueError(f"there are {prompts} prompts for a batch of {sequences} sequences")
    return given.repeat_interleave(sequences // prompts, 0)


def lengths_of(lengths: Tensor | Sequence[int], device: torch.device) -> Tensor:
    """Return prompt lengths as a tensor ``[B]`` int64. Raises as `Patched.prompt_lengths`."""
    with torch.inference_mode(False):
        found = torch.as_tensor(lengths)
        if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
            raise TypeError(f"prompt_lengths is of {found.dtype}; expected whole numbers")
        if found.dim() != 1 or not found.numel():
            raise ValueError(f"prompt_lengths has shape {tuple(found.shape)}; expected [B]")
        if found.min() < 1:
            raise ValueError(f"prompt_lengths holds {int(found.min())}; a prompt has a token")
        return found.to(device, torch.int64, copy=True)
