"""Where prompts end: told by `generate`, by the caller, or by a forward without a past.

A layer cannot tell a prompt from what was generated: a prompt's last chunk may be one token, and
assisted decoding sends several. So `generate` is watched while a model is patched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from faststeer.scopes import Tokens

if TYPE_CHECKING:
    from faststeer.plan import Plan


@dataclass(frozen=True)
class Prompts:
    """Prompts of a batch: tokens ``[B]`` int64 and padding on the left ``[B]``, maybe their ids.

    `ids` ``[B, P]`` holds -1 for padding.
    """

    lengths: Tensor
    padding: Tensor
    ids: Tensor | None = None

    @classmethod
    def masked(cls, mask: Tensor, ids: Tensor | None) -> Prompts:
        """From a mask ``[B, P]`` of the tokens that are none of padding."""
        real = mask.bool()
        if ids is not None:
            ids = torch.where(real, ids, -1)
        return cls(real.sum(1), (real.cumsum(1) == 0).sum(1), ids)

    def spread(self, sequences: int) -> Prompts:
        """For a batch in which each prompt has several sequences, one after the other."""
        given = self.lengths.shape[0]
        if sequences == given:
            return self
        if sequences % given:
            raise ValueError(f"there are {given} prompts for a batch of {sequences} sequences")
        each = sequences // given
        ids = None if self.ids is None else self.ids.repeat_interleave(each, 0)
        return Prompts(
            self.lengths.repeat_interleave(each), self.padding.repeat_interleave(each), ids
        )


def tokens_of(plan: Plan, given: Tensor, kwargs: Mapping[str, Any]) -> Tokens:
    """The tokens of a forward of the decoder, whose first input is `given` ``[B, T, ...]``.

    Raises:
        ValueError: nothing tells where the prompts end.
    """
    batch, count = given.shape[:2]
    device = given.device
    cache = kwargs.get("past_key_values")
    past = 0 if cache is None else cache.get_seq_length()
    columns = kwargs.get("cache_position")
    if columns is None:
        columns = torch.arange(count, device=device) + past
    mask = kwargs.get("attention_mask")
    prompts = plan.prompts
    if prompts is None:
        prompts = _from_forward(plan, given, past, mask)
    prompts = prompts.spread(batch)
    positions = columns - prompts.padding.to(device)[:, None]
    ids = None if prompts.ids is None else prompts.ids.to(device)
    return Tokens(positions, prompts.lengths.to(device)[:, None], columns, ids)


def _from_forward(plan: Plan, given: Tensor, past: Any, mask: Any) -> Prompts:
    """For a model that is called outside of `generate`."""
    batch, count = given.shape[:2]
    ids = given if given.dim() == 2 else None
    if mask is not None and mask.dim() != 2:
        raise ValueError(
            "positions= other than 'all' needs an attention mask of two dimensions, or generate"
        )
    if plan.prompt_lengths is not None:
        lengths = plan.prompt_lengths.expand(batch).to(given.device)
        padding = torch.zeros_like(lengths) if mask is None else (mask.cumsum(1) == 0).sum(1)
        return Prompts(lengths, padding)
    if isinstance(past, Tensor) or past > 0:
        raise ValueError(
            "positions= other than 'all' has to know where the prompts end, and a forward with a "
            "past does not tell: use generate, or set patched.prompt_lengths to a tensor [B]"
        )
    if mask is None:
        mask = torch.ones(batch, count, dtype=torch.bool, device=given.device)
    return Prompts.masked(mask, ids)


class Watched:
    """A model's `generate` that tells the plan of its prompts, and is put back by `restore`."""

    def __init__(self, plan: Plan, model: Any) -> None:
        """Takes the place of ``model.generate`` on this one model."""
        self.plan = plan
        self.model = model
        self.own = model.__dict__.get("generate")  # somebody else's wrapper
        self.generate: Callable[..., Any] = model.generate
        model.__dict__["generate"] = self

    def restore(self) -> None:
        """Undo what the constructor did."""
        if self.model.__dict__.get("generate") is self:
            del self.model.__dict__["generate"]
            if self.own is not None:
                self.model.__dict__["generate"] = self.own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's own, with the prompts known to the plan meanwhile."""
        before = self.plan.prompts
        if len(self.plan.columns) > 1:
            self.plan.prompts = _of_generate(self.model, args, kwargs)
        try:
            return self.generate(*args, **kwargs)
        finally:
            self.plan.prompts = before


def _of_generate(model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prompts | None:
    ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
    embeds = kwargs.get("inputs_embeds")
    given = ids if ids is not None else embeds
    if given is None:
        return None
    mask = kwargs.get("attention_mask")
    if mask is None:
        mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        config = kwargs.get("generation_config") or model.generation_config
        pad = kwargs.get("pad_token_id", config.pad_token_id)
        ends = kwargs.get("eos_token_id", config.eos_token_id)
        # As generate itself infers a mask where none is given.
        if ids is not None and pad is not None and pad not in _listed(ends):
            mask = ids != pad
    return Prompts.masked(mask, ids)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
