"""The tokens of a call of the decoder: their positions, padding, and where the prompts end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from faststeer.models.calls import DecoderCall
from faststeer.patching.outer_masks import outer_ids, padding_mask
from faststeer.patching.virtual_tokens import require_own_tokens
from faststeer.steering.forward_context import ForwardContext
from faststeer.steering.token_positions import (
    BatchTokens,
    PromptLayout,
    TokenPositions,
    positions_of,
    repeat_for,
)


class CallTokens(BatchTokens):
    """The tokens of one call of a transformers decoder."""

    def __init__(
        self,
        forward: ForwardContext,
        call: DecoderCall,
        given: Tensor,
        peft_models: Sequence[nn.Module],
    ) -> None:
        """Refer to a call with tokens.

        `given`: its input, `DecoderCall.given`. `peft_models`: PEFT models around the decoder.
        """
        self.given = given
        self.forward = forward
        self.call = call
        self.peft_models = peft_models

    def positions(self) -> TokenPositions:
        """Return the positions of the tokens. Raises as `BatchTokens.positions`."""
        require_own_tokens(self.peft_models)
        batch, count = self.given.shape[:2]
        past = self.call.past_length()
        columns = self.call.columns(count, past, self.given.device)
        _require_whole_mask(self.call, past, count)
        prompts = self.forward.prompts
        if prompts is None:
            prompts = self._prompts_of_call(past)
        prompts = prompts.spread(batch)
        lengths = prompts.lengths[:, None]
        ids, memory = self._ids(), self.forward.memory
        return TokenPositions(prompts.at(columns), lengths, columns, prompts, ids, past, memory)

    def _ids(self) -> Tensor | None:
        """Return the ids ``[B, T]`` of the tokens; None where no model was given them."""
        given = self.given
        if given.dim() == 2:
            return given
        ids = outer_ids(self.forward)
        return ids if ids is not None and ids.shape == given.shape[:2] else None

    def only_generated(self) -> bool:
        """Return whether all tokens are known to come after the prompts. Raises as `positions`."""
        forward, batch = self.forward, self.given.shape[0]
        if forward.in_graph:
            return False
        prompts, lengths = forward.prompts, forward.prompt_lengths
        if prompts is not None:
            count, columns = prompts.lengths.shape[0], prompts.columns
        elif lengths is not None and padding_mask(forward, self.call, "positions=") is None:
            count, columns = lengths.shape[0], forward.longest_prompt
        else:
            return False
        require_own_tokens(self.peft_models)
        past = self.call.past_length()
        _require_whole_mask(self.call, past, self.given.shape[1])
        if isinstance(past, Tensor) or columns is None or batch % count:
            return False
        return past >= columns

    def real(self) -> Tensor:
        """Return which tokens are not padding, ``[B, T]`` bool. Raises as `positions`."""
        mask = self.call.attention_mask
        prepared = mask is not None and not (isinstance(mask, Tensor) and mask.dim() == 2)
        if prepared and self.forward.prompts is not None:
            return self.positions().positions >= 0
        mask = padding_mask(self.forward, self.call, "counting tokens")
        batch, count = self.given.shape[:2]
        if mask is None:
            return torch.ones(batch, count, dtype=torch.bool, device=self.given.device)
        return mask[:, -count:].bool()

    def _prompts_of_call(self, past: int | Tensor) -> PromptLayout:
        """Return the prompts of a call outside of `generate`."""
        given, forward = self.given, self.forward
        batch, count = given.shape[:2]
        mask = padding_mask(forward, self.call, "positions= other than 'all'")
        if forward.prompt_lengths is not None:
            lengths = repeat_for(forward.prompt_lengths.to(given.device), batch)
            if mask is None:
                return PromptLayout(lengths, torch.zeros_like(lengths))
            real = mask.bool()  # past and present
            return PromptLayout(lengths, (~real).sum(1), positions=positions_of(real))
        if forward.unknown_prompts is not None:
            raise ValueError(forward.unknown_prompts)
        if isinstance(past, Tensor) or past > 0:
            raise ValueError(
                "positions= other than 'all' has to know where the prompts end, and a forward with "
                "a past does not show it: call generate of a model that patch() was given, or set "
                "patched.prompt_lengths to a tensor [B]"
            )
        if mask is None:
            mask = torch.ones(batch, count, dtype=torch.bool, device=given.device)
        return PromptLayout.masked(mask, given if given.dim() == 2 else None)


def _require_whole_mask(call: DecoderCall, past: int | Tensor, count: int) -> None:
    """Raise ValueError where the mask covers more or fewer tokens than past and input: then one of
    the two is misread.
    """
    mask = call.attention_mask
    if not (isinstance(mask, Tensor) and mask.dim() == 2 and isinstance(past, int)):
        return
    if mask.shape[1] != past + count:
        raise ValueError(
            f"a {call.signature.decoder} got an attention mask over {mask.shape[1]} tokens, for "
            f"{past} tokens of the past and {count} new ones; positions= needs one over all of them"
        )
