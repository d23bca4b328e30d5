"""Which tokens a call of the decoder is given: their positions, and where the prompts end."""

from __future__ import annotations

import torch
from torch import Tensor

from faststeer.models.calls import DecoderCall
from faststeer.patching.outer_masks import padding_mask
from faststeer.patching.virtual_tokens import require_own_tokens
from faststeer.steering.plan import Plan
from faststeer.steering.token_positions import PromptLayout, TokenPositions, _positions, _spread


def tokens_of(plan: Plan, call: DecoderCall) -> TokenPositions:
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
    return TokenPositions(prompts.at(columns), prompts.lengths[:, None], columns, prompts)


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


def _from_forward(plan: Plan, given: Tensor, call: DecoderCall, past: int | Tensor) -> PromptLayout:
    """For a model that is called outside of `generate`."""
    batch, count = given.shape[:2]
    mask = padding_mask(plan, call, "positions= other than 'all'")
    if plan.prompt_lengths is not None:
        lengths = _spread(plan.prompt_lengths.to(given.device), batch)
        if mask is None:
            return PromptLayout(lengths, torch.zeros_like(lengths))
        real = mask.bool()  # past and present
        return PromptLayout(lengths, (~real).sum(1), positions=_positions(real))
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
    return PromptLayout.masked(mask, given if given.dim() == 2 else None)


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
