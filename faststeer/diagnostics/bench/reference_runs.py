"""Compute reference logits and reference steering without any of faststeer's own steering.

Steering is one plain hook that adds to tokens chosen by plain Python, in a forward pass without a
cache. `faststeer check` compares a patched model with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from faststeer.data.batches import Batch
from faststeer.diagnostics.bench.layer_output import batch_first, hidden_states, original_order
from faststeer.models.inference import accepted

# row, position in it, tokens of its prompt -> whether that token is steered
TokenPredicate = Callable[[int, int, int], bool]


def steered_tokens(batch: Batch, ids: Tensor, is_steered: TokenPredicate) -> Tensor:
    """Return 1 for each steered token of `ids` and else 0, ``[B, T]`` float32.

    `ids` continues the left-padded prompts of `batch`; padding is never steered.
    """
    steered = torch.zeros(ids.shape)
    width = batch.ids.shape[1]
    for row, prompt_tokens in enumerate(batch.mask.sum(1).tolist()):
        padding = width - prompt_tokens
        for column in range(padding, ids.shape[1]):
            steered[row, column] = is_steered(row, column - padding, prompt_tokens)
    return steered


def uncached_logits(
    model: Any, ids: Tensor, mask: Tensor, explicit_positions: bool = False
) -> Tensor:
    """Return the logits ``[B, T, V]``, in float32, of one forward pass without a cache.

    Args:
        model: a causal model.
        ids: token ids ``[B, T]``.
        mask: 1 for real tokens, 0 for padding, ``[B, T]``.
        explicit_positions: pass position ids that count from 0, as a padded batch always needs;
            without them the model counts.
    """
    call: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if explicit_positions or not bool(mask.all()):
        call["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        output = model(**accepted(model, call))
    logits: Tensor = output.logits
    return logits.float()


def generate_greedily(model: Any, batch: Batch, new_tokens: int) -> tuple[Tensor, Tensor]:
    """Generate greedily with a cache; return the sequences and the raw logits of the new tokens.

    Sequences are ``[B, T + new_tokens]``, logits ``[B, new_tokens, V]`` in float32.
    """
    generated = model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return generated.sequences, torch.stack(generated.logits, 1).float()


@contextmanager
def add_with_hook(layer: nn.Module, direction: Tensor, coefficients: Tensor) -> Iterator[None]:
    """Add ``coefficients[b, t] * direction`` to the layer's output, in float32, until exit."""

    def add(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_states(output)
        rows, tokens = coefficients.shape
        view = batch_first(hidden, rows, tokens)
        addend = coefficients[..., None] * direction
        addend = addend.view(rows, tokens, *[1] * (view.dim() - 3), -1).to(hidden.device)
        changed = original_order((view.float() + addend).to(hidden.dtype), hidden, rows, tokens)
        if isinstance(output, Tensor):
            return changed
        return type(output)([changed, *output[1:]])

    hook = layer.register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()
