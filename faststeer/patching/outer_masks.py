"""Padding masks and ids that only a model around the decoder is given.

A multimodal model takes the mask ``[B, T]`` and hands its text decoder one that it has prepared: of
four dimensions, or a dict of such, from which padding cannot be read. RWKV's language model hands
none on. While such a model runs, the mask that it was called with is kept, and the token ids: the
decoder gets embeddings.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from faststeer.models.calls import DecoderCall
from faststeer.steering.forward_context import ForwardContext

_MASK = "attention_mask"
_IDS = "input_ids"
_UNMASKED = ("RwkvModel",)  # their language models hand no mask on


class OuterMask:
    """Hooks on one model around the decoder, which record its mask and ids while it runs."""

    def __init__(self, forward: ForwardContext, model: nn.Module) -> None:
        """Register the hooks."""
        self.forward, self.model = forward, model
        self.order = tuple(inspect.signature(type(model).forward).parameters)[1:]
        self._hooks: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def restore(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling():  # a graph knows the prompts of generate alone
            named = {**dict(zip(self.order, args, strict=False)), **kwargs}
            self.forward.outer_masks.append((get_ident(), named.get(_MASK), named.get(_IDS)))

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        for place in reversed(range(len(self.forward.outer_masks))):  # other threads have theirs
            if self.forward.outer_masks[place][0] == get_ident():
                del self.forward.outer_masks[place]
                return


def preparing_models(model: nn.Module, decoder: nn.Module, known: bool) -> Iterator[nn.Module]:
    """Yield the models around `decoder` that may hand it another mask than they were given.

    `known`: the decoder's family is: its plain language head, a LlamaForCausalLM say, hands its
    mask on as it is, and pays for no hooks.
    """
    from transformers import PreTrainedModel

    for module in model.modules():
        if (
            isinstance(module, PreTrainedModel)
            and module is not decoder
            and not (known and module.base_model is decoder)
            and _MASK in inspect.signature(type(module).forward).parameters
            and any(part is decoder for part in module.modules())
        ):
            yield module


def outer_ids(forward: ForwardContext) -> Tensor | None:
    """Return the ids that the innermost model around the decoder was given; None without any."""
    own = [ids for thread, _, ids in forward.outer_masks if thread == get_ident()]
    return next((ids for ids in reversed(own) if isinstance(ids, Tensor)), None)


def padding_mask(forward: ForwardContext, call: DecoderCall, what: str) -> Tensor | None:
    """Return the mask ``[B, past + T]`` of the tokens that are not padding; None: no padding.

    Raises:
        ValueError: the decoder got a prepared mask, and no model around it got another.
    """
    mask = call.attention_mask
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return mask
    own = [mask for thread, mask, _ in forward.outer_masks if thread == get_ident()]
    for outer in reversed(own):
        if outer is None:
            return None
        if isinstance(outer, Tensor) and outer.dim() == 2:
            return _require_fitting(outer, call, what)
    if mask is None:
        _require_no_padding(call, what)
        return None
    shape = f" of {mask.dim()} dimensions" if isinstance(mask, Tensor) else ""
    raise ValueError(
        f"{what} needs an attention mask of two dimensions, [B, T] with 0 for padding, but a "
        f"{call.signature.decoder} got a {type(mask).__name__}{shape}: {_mend()}"
    )


def _require_no_padding(call: DecoderCall, what: str) -> None:
    """Raise ValueError where a decoder without a mask may get padding: RWKV's language model is
    given a mask and hands none on.
    """
    given = call.given
    assert given is not None
    if call.signature.decoder in _UNMASKED and given.shape[0] > 1:
        raise ValueError(
            f"{what} needs to know the padding, which a {call.signature.decoder} is never given: "
            f"{_mend()}"
        )


def _mend() -> str:
    if torch.compiler.is_compiling():
        return "a compiled forward does not see it; call generate, or the model without compiling"
    return "give patch() or capture() the whole model, and call that, or its generate, with a mask"


def _require_fitting(mask: Tensor, call: DecoderCall, what: str) -> Tensor:
    """Return the mask of a model around the decoder, if it is of the decoder's own tokens.

    Raises:
        ValueError: it is of more or fewer, as where images are put in.
    """
    given = call.given
    assert given is not None
    batch, count = given.shape[:2]
    fits = mask.shape[0] == batch and mask.shape[1] >= count
    if fits and call.counts_past:
        past = call.past_length()
        fits = isinstance(past, Tensor) or mask.shape[1] == past + count
    if not fits:
        raise ValueError(
            f"{what} needs the padding of {batch} sequences of {count} new tokens, but the model "
            f"around the {call.signature.decoder} got a mask of shape {tuple(mask.shape)}: other "
            "tokens than the decoder's, whose padding is not known"
        )
    return mask
