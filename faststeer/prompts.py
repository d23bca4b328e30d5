"""Where prompts end: told by `generate`, by the caller, or by a forward without a past.

A layer cannot tell a prompt from what was generated: a prompt's last chunk may be one token, and
assisted decoding sends several. So `generate` is watched while a model is patched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from faststeer.calls import DecoderCall
from faststeer.markers import After
from faststeer.scopes import Scope, Tokens

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
        ValueError: where the prompts end, or how long the past is, is not known.
    """
    given = call.given
    assert given is not None
    batch, count = given.shape[:2]
    columns = call.columns(count, given.device)
    _require_whole_mask(call, count)
    prompts = plan.prompts
    if prompts is None:
        prompts = _from_forward(plan, given, call)
    prompts = prompts.spread(batch)
    return Tokens(prompts.at(columns), prompts.lengths[:, None], columns, prompts)


def _require_whole_mask(call: DecoderCall, count: int) -> None:
    """Raise ValueError where the mask covers more or fewer tokens than past and input: one of the
    two is not what it is taken for.
    """
    mask, past = call.attention_mask, call.past_length()
    if not (isinstance(mask, Tensor) and mask.dim() == 2 and isinstance(past, int)):
        return
    if mask.shape[1] != past + count:
        raise ValueError(
            f"a {call.signature.decoder} got an attention mask over {mask.shape[1]} tokens, for "
            f"{past} tokens of the past and {count} new ones; positions= needs one over all of them"
        )


def _from_forward(plan: Plan, given: Tensor, call: DecoderCall) -> Prompts:
    """For a model that is called outside of `generate`."""
    batch, count = given.shape[:2]
    mask, past = call.attention_mask, call.past_length()
    if mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2):
        raise ValueError(
            "positions= other than 'all' needs an attention mask of two dimensions, or generate"
        )
    if plan.prompt_lengths is not None:
        lengths = _spread(plan.prompt_lengths.to(given.device), batch)
        if mask is None:
            return Prompts(lengths, torch.zeros_like(lengths))
        real = mask.bool()  # past and present
        return Prompts(lengths, (~real).sum(1), positions=_positions(real))
    if isinstance(past, Tensor) or past > 0:
        raise ValueError(
            "positions= other than 'all' has to know where the prompts end, and a forward with a "
            "past does not tell: use generate, or set patched.prompt_lengths to a tensor [B]"
        )
    if mask is None:
        mask = torch.ones(batch, count, dtype=torch.bool, device=given.device)
    return Prompts.masked(mask, given if given.dim() == 2 else None)


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
        tables = self.plan.tables
        with self.plan.turns.generating() as within, tables.gates.deciding_anew(within):
            before = self.plan.prompts
            if tables.may_need_tokens or self.plan.watchers:
                named = dict(zip(("inputs", "generation_config"), args, strict=False)) | kwargs
                if tables.may_need_tokens:
                    _require_one_context(self.model, named)
                self.plan.prompts = _of_generate(self.model, named, tables.device)
                _look_up_markers(self.plan.prompts, tables.columns)
            try:
                return self.generate(*args, **kwargs)
            finally:
                self.plan.prompts = before


def _require_one_context(model: Any, named: Mapping[str, Any]) -> None:
    scale = _setting(model, named, "guidance_scale")
    if scale not in (None, 1):
        raise ValueError(
            f"guidance_scale={scale} calls the model with other prompts than those of generate; "
            "positions= and when= cannot tell them apart: steer all positions, or do without it"
        )


def _setting(model: Any, named: Mapping[str, Any], name: str) -> Any:
    """An argument of `generate`, wherever it was given."""
    own, config = named.get("generation_config"), model.generation_config
    return _given(named.get(name), getattr(own, name, None), getattr(config, name, None))


def _of_generate(model: Any, named: Mapping[str, Any], device: torch.device) -> Prompts | None:
    ids = _given(named.get("inputs"), named.get("input_ids"))
    embeds = named.get("inputs_embeds")
    if embeds is not None:
        given, ids = embeds, None  # where both are there, the prompt is the embeddings
    elif ids is not None:
        given = ids
    else:
        return None
    mask = named.get("attention_mask")
    if mask is None:
        mask = torch.ones(given.shape[:2], dtype=torch.bool, device=given.device)
        # As generate itself infers a mask where none is given.
        pad, ends = (_setting(model, named, name) for name in ("pad_token_id", "eos_token_id"))
        if ids is not None and pad is not None and pad not in _listed(ends):
            mask = ids != pad
    if ids is not None:
        # With a past, the ids may be only what is new; the mask is of the whole conversation.
        ids = ids.to(device) if ids.shape == mask.shape else None
    return Prompts.masked(mask.to(device), ids).simplified()


def _look_up_markers(prompts: Prompts | None, scopes: Sequence[Scope | None]) -> None:
    """Find every marker now: the compiled forwards of a `generate` have no text to look in."""
    if prompts is None or prompts.ids is None:
        return
    for scope in scopes:
        if isinstance(scope, After) and scope.key not in prompts.begins:
            scope.look_up(prompts)


def _given(*choices: Any) -> Any:
    return next((choice for choice in choices if choice is not None), None)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
