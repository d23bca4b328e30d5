"""Where prompts end: told by `generate`, by the caller, or by a forward without a past.

A layer cannot tell a prompt from what was generated: a prompt's last chunk may be one token, and
assisted decoding sends several. So `generate` is watched while a model is patched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from faststeer.calls import DecoderCall
from faststeer.outer_masks import padding_mask
from faststeer.scopes import Tokens
from faststeer.virtual_tokens import require_own_tokens

if TYPE_CHECKING:
    from faststeer.plan import Plan


@dataclass(frozen=True)
class Prompts:
    """Prompts of a batch, by the columns in which they lie in the cache.

    `lengths` ``[B]`` int64: their tokens. `padding` ``[B]`` int64: columns before their ends that
    hold none. `ids` ``[B, P]``: -1 for padding; where they are known. `positions` ``[B, P]``: of
    each column, -1 for padding; left out where all padding is on the left. `begins`: where each
    marker of `faststeer.after` ends, ``[B]`` by `After.key`, as far as it was looked up; batches
    made of these prompts share it.
    """

    lengths: Tensor
    padding: Tensor
    ids: Tensor | None = None
    positions: Tensor | None = None
    begins: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def masked(cls, mask: Tensor, ids: Tensor | None) -> Prompts:
        """From a mask ``[B, P]`` of the tokens that are none of padding."""
        real = mask.bool()
        if ids is not None:
            ids = torch.where(real, ids, -1)
        lengths = real.sum(1)
        return cls(lengths, real.shape[1] - lengths, ids, _positions(real))

    def simplified(self) -> Prompts:
        """Without `positions` where `padding` says as much, so that no graph depends on P."""
        if self.positions is None:
            return self
        regular = replace(self, positions=None)
        columns = torch.arange(self.positions.shape[1], device=self.positions.device)
        same = torch.equal(regular.at(columns).clamp(min=-1), self.positions)
        return regular if same else self

    def spread(self, sequences: int) -> Prompts:
        """For a batch in which each prompt has several sequences, one after the other."""
        if sequences == self.lengths.shape[0]:
            return self
        return Prompts(
            _spread(self.lengths, sequences),
            _spread(self.padding, sequences),
            None if self.ids is None else _spread(self.ids, sequences),
            None if self.positions is None else _spread(self.positions, sequences),
            self.begins,
        )

    def at(self, columns: Tensor) -> Tensor:
        """The positions ``[B, T]`` of columns ``[T]``, negative for padding."""
        regular = columns - self.padding[:, None]
        if self.positions is None:
            return regular
        last = self.positions.shape[1] - 1
        return torch.where(columns > last, regular, self.positions[:, columns.clamp(max=last)])


def _positions(real: Tensor) -> Tensor:
    return torch.where(real, real.cumsum(1) - 1, -1)


def _spread(given: Tensor, sequences: int) -> Tensor:
    prompts = given.shape[0]
    if sequences == prompts:
        return given
    if sequences % prompts:
        raise ValueError(f"there are {prompts} prompts for a batch of {sequences} sequences")
    return given.repeat_interleave(sequences // prompts, 0)


def tokens_of(plan: Plan, call: DecoderCall) -> Tokens:
    """Return the tokens of a forward of the decoder.

    Raises:
        ValueError: where the prompts end, how long the past is, or what is padding, is not known.
    """
    given = call.given
    assert given is not None
    require_own_tokens(plan.peft_models)
    batch, count = given.shape[:2]
    past = call.past_length()
    columns = call.columns(count, past, given.device)
    _require_whole_mask(call, past, count)
    prompts = plan.prompts
    if prompts is None:
        prompts = _from_forward(plan, given, call, past)
    prompts = prompts.spread(batch)
    return Tokens(prompts.at(columns), prompts.lengths[:, None], columns, prompts)


def _require_whole_mask(call: DecoderCall, past: int | Tensor, count: int) -> None:
    """Raise ValueError where the mask covers more or fewer tokens than past and input: one of the
    two is not what it is taken for.
    """
    mask = call.attention_mask
    if not (isinstance(mask, Tensor) and mask.dim() == 2 and isinstance(past, int)):
        return
    if mask.shape[1] != past + count:
        raise ValueError(
            f"a {call.signature.decoder} got an attention mask over {mask.shape[1]} tokens, for "
            f"{past} tokens of the past and {count} new ones; positions= needs one over all of them"
        )


def _from_forward(plan: Plan, given: Tensor, call: DecoderCall, past: int | Tensor) -> Prompts:
    """For a model that is called outside of `generate`."""
    batch, count = given.shape[:2]
    mask = padding_mask(plan, call, "positions= other than 'all'")
    if plan.prompt_lengths is not None:
        lengths = _spread(plan.prompt_lengths.to(given.device), batch)
        if mask is None:
            return Prompts(lengths, torch.zeros_like(lengths))
        real = mask.bool()  # past and present
        return Prompts(lengths, (~real).sum(1), positions=_positions(real))
    if plan.unknown_prompts is not None:
        raise ValueError(plan.unknown_prompts)
    if isinstance(past, Tensor) or past > 0:
        raise ValueError(
            "positions= other than 'all' has to know where the prompts end, and a forward with a "
            "past does not show it: call generate of a model that patch() was given, or set "
            "patched.prompt_lengths to a tensor [B]"
        )
    if mask is None:
        mask = torch.ones(batch, count, dtype=torch.bool, device=given.device)
    return Prompts.masked(mask, given if given.dim() == 2 else None)


def real_tokens(plan: Plan, call: DecoderCall) -> Tensor:
    """Return which tokens of a forward are not padding, ``[B, T]`` bool. Raises as `tokens_of`."""
    given, mask = call.given, call.attention_mask
    assert given is not None
    prepared = mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2)
    if prepared and plan.prompts is not None:
        return tokens_of(plan, call).positions >= 0
    mask = padding_mask(plan, call, "counting tokens")
    batch, count = given.shape[:2]
    if mask is None:
        return torch.ones(batch, count, dtype=torch.bool, device=given.device)
    return mask[:, -count:].bool()


def lengths_of(lengths: Tensor | Sequence[int], device: torch.device) -> Tensor:
    """Lengths of prompts as a tensor ``[B]`` int64. Raises as `Patched.prompt_lengths` says."""
    with torch.inference_mode(False):
        found = torch.as_tensor(lengths)
        if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
            raise TypeError(f"prompt_lengths is of {found.dtype}; expected whole numbers")
        if found.dim() != 1 or not found.numel():
            raise ValueError(f"prompt_lengths has shape {tuple(found.shape)}; expected [B]")
        if found.min() < 1:
            raise ValueError(f"prompt_lengths holds {int(found.min())}; a prompt has a token")
        return found.to(device, torch.int64, copy=True)
