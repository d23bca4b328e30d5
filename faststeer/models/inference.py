"""Run a model: where it takes its input, its logits, greedy continuations."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch, left_padded
from faststeer.data.encoding import token_ids
from faststeer.utils.progress import Advance


def continuations(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    add_special_tokens: bool = True,
    advance: Advance = lambda steps: None,
) -> list[str]:
    """Return the greedy continuation of each prompt, generated in one left-padded batch.

    `add_special_tokens` is passed to the tokenizer; prompts from a chat template have them already,
    and never get a second BOS.
    `advance` is called with 1 after each token.

    Raises:
        ValueError: a prompt without tokens.
    """
    from transformers import StoppingCriteriaList

    encoded = [token_ids(tokenizer, prompt, add_special_tokens)[0] for prompt in prompts]
    if not all(encoded):
        raise ValueError("a prompt has no tokens; there is nothing to continue")
    batch = left_padded(encoded, tokenizer.pad_token_id, device_of(model))

    def count(ids: Tensor, scores: object, **rest: object) -> Tensor:
        advance(1)
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)  # stops nothing

    generated = model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id or 0,
        stopping_criteria=StoppingCriteriaList([count]),
    )
    longest = batch.ids.shape[1]
    texts: list[str] = tokenizer.batch_decode(generated[:, longest:], skip_special_tokens=True)
    return texts


def device_of(model: nn.Module) -> torch.device:
    """Return where the model takes its input; the CPU for offloaded weights, which hooks move."""
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def random_ids(model: nn.Module, batch_size: int, tokens: int) -> Tensor:
    """Return ids ``[B, T]`` from all of the model's vocabulary, on its device; equal per call."""
    config: Any = model.config
    draw = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (batch_size, tokens), generator=draw).to(
        device_of(model)
    )


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """Return the logits ``[P, V]`` float32 of the P tokens that are not padding."""
    call = {"input_ids": batch.ids, "attention_mask": batch.mask, "use_cache": False}
    call["position_ids"] = batch.positions
    with torch.inference_mode():
        output = model(**accepted(model, call))
    wide: Tensor = output.logits[batch.real].float()
    return wide


def accepted(model: nn.Module, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `model` has by name; all of them for a wrapper without names."""
    names = inspect.signature(type(model).forward).parameters
    if "input_ids" not in names:
        return dict(call)
    return {name: value for name, value in call.items() if name in names}


def greedy_tokens(model: Any, batch: Batch, count: int) -> Tensor:
    """Return `count` greedy tokens ``[B, count]``.

    Never an end of text, so that all rows and all models give as many.
    """
    found: Tensor = model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return found[:, batch.ids.shape[1] :]
