"""What a model thinks of given texts: log-probabilities of continuations, and perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from faststeer.batches import Batch, device_of, left_padded
from faststeer.evaluate.texts import encode


def continuation_logprobs(
    model: Any, tokenizer: Any, items: Sequence[tuple[str, str]], batch_size: int = 16
) -> Tensor:
    """log p(continuation | prompt) in nats for each (prompt, continuation): ``[N]`` float32.

    Summed over the continuation's tokens. Logits are computed for these tokens alone.

    Raises:
        ValueError: no items, or one in which the prompt or the continuation has no tokens.
    """
    if not items:
        raise ValueError("got no items; at least one is needed")
    found = []
    for start in range(0, len(items), batch_size):
        encoded = [
            (
                tokenizer(prompt)["input_ids"],
                tokenizer(continuation, add_special_tokens=False)["input_ids"],
            )
            for prompt, continuation in items[start : start + batch_size]
        ]
        for number, both in enumerate(encoded, start):
            if not all(both):  # nothing would predict the continuation's first token but padding
                what = "continuation" if both[0] else "prompt"
                raise ValueError(f"item {number}, {items[number]!r}: its {what} has no tokens")
        rows = [prompt + own for prompt, own in encoded]
        batch = left_padded(rows, tokenizer.pad_token_id, device_of(model))
        longest = max(len(own) for _, own in encoded)
        logprobs = _next_token_logprobs(model, batch, longest)
        for row, (_, own) in zip(logprobs, encoded, strict=True):
            found.append(row[longest - len(own) :].sum())
    return torch.stack(found)


def perplexity(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """exp of the mean negative log-probability a token, over all tokens but each text's first.

    Of whatever logits the model computes; `token_scores` tells more, in batches.

    Raises:
        ValueError: no texts, or one with fewer than two tokens.
    """
    rows = encode(tokenizer, texts, None, None)
    if isinstance(texts, str) or not rows:
        raise ValueError(f"texts is {texts!r}; expected several")
    total, count = 0.0, 0
    for row in rows:
        batch = left_padded([row], tokenizer.pad_token_id, device_of(model))
        scored = len(row) - 1
        logprobs = _next_token_logprobs(model, batch, scored)
        total -= float(logprobs.sum())
        count += scored
    return float(torch.tensor(total / count, dtype=torch.float64).exp())  # inf beyond a float


def _next_token_logprobs(model: Any, batch: Batch, last: int) -> Tensor:
    """Log-probabilities ``[B, last]`` of every row's last tokens, each given those before it."""
    with torch.inference_mode():
        logits = model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
            logits_to_keep=last + 1,
        ).logits[:, :-1]
        logprobs = logits.float().log_softmax(-1)
        chosen: Tensor = logprobs.gather(-1, batch.ids[:, -last:, None])[..., 0].cpu()
        return chosen
