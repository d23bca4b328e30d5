"""Likelihood of given texts: log-probabilities of continuations, and perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from faststeer.data.encoding import token_ids
from faststeer.evaluate.texts import encode_texts, warn_of_missing_bos
from faststeer.models.text_calls import TextCalls, context_of


def continuation_logprobs(
    model: Any, tokenizer: Any, items: Sequence[tuple[str, str]], batch_size: int = 16
) -> Tensor:
    """Return log p(continuation | prompt) in nats of N items, ``[N]`` float32.

    The log-probabilities are summed over the continuation's tokens. Models of a known family
    compute logits for these tokens alone.

    Args:
        model: a causal model, patched or not; active steering is included.
        tokenizer: its tokenizer.
        items: (prompt, continuation) pairs.
        batch_size: items per forward pass.

    Raises:
        ValueError: no items, an item whose prompt or continuation has no tokens, or one that is
            longer than the model's context.
    """
    if not items:
        raise ValueError("got no items; at least one is needed")
    calls = TextCalls(model, whole=True)
    context = context_of(calls.decoder)
    found: list[Tensor] = []
    for start in range(0, len(items), batch_size):
        encoded = [
            (
                token_ids(tokenizer, prompt)[0],
                token_ids(tokenizer, continuation, add_special_tokens=False)[0],
            )
            for prompt, continuation in items[start : start + batch_size]
        ]
        for number, item in enumerate(encoded, start):
            if not all(item):  # only padding would predict the first token
                what = "continuation" if item[0] else "prompt"
                raise ValueError(f"item {number}, {items[number]!r}: its {what} has no tokens")
            if context is not None and sum(map(len, item)) > context:
                raise ValueError(
                    f"item {number} has {sum(map(len, item))} tokens, and the model's context is "
                    f"{context}"
                )
        rows = [prompt + continuation for prompt, continuation in encoded]
        warn_of_missing_bos(model, tokenizer, rows, stacklevel=3)
        counts = [len(continuation) for _, continuation in encoded]
        found += [
            logprobs.sum() for logprobs in _logprobs(calls, rows, counts, tokenizer.pad_token_id)
        ]
    return torch.stack(found)


def perplexity(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Return exp of the mean negative log-probability per token, except each text's first token.

    Uses the model's own logits, one text at a time; `token_scores` reports more scores, in batches.

    Raises:
        ValueError: no texts, or a text with fewer than two tokens or more than the model's context.
    """
    calls = TextCalls(model, whole=True)
    rows = encode_texts(tokenizer, texts, None, context_of(calls.decoder))
    if isinstance(texts, str) or not rows:
        raise ValueError(f"texts is {texts!r}; expected several")
    warn_of_missing_bos(model, tokenizer, rows, stacklevel=3)
    total, count = 0.0, 0
    for row in rows:
        [logprobs] = _logprobs(calls, [row], [len(row) - 1], tokenizer.pad_token_id)
        total -= float(logprobs.sum())
        count += len(logprobs)
    return float(torch.tensor(total / count, dtype=torch.float64).exp())  # inf beyond a float


def _logprobs(
    calls: TextCalls, rows: Sequence[list[int]], counts: Sequence[int], pad: int | None
) -> list[Tensor]:
    """Return the log-probabilities ``[counts[i]]`` of the last `counts[i]` tokens of each row i."""
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    for group in calls.groups(rows, pad):
        batch = calls.batch([rows[number] for number in group], pad)
        given = calls.arguments(batch)
        if calls.known:  # padded on the left, so that texts end together
            given["logits_to_keep"] = max(counts[number] for number in group) + 1
        with torch.inference_mode():
            logits = calls.called(**given).logits
            logprobs = logits.float().log_softmax(-1)
        for line, number in enumerate(group):
            end = logprobs.shape[1] if calls.known else len(rows[number])
            targets = torch.tensor(rows[number][-counts[number] :], device=logprobs.device)
            predicted = logprobs[line, end - 1 - counts[number] : end - 1]
            found[number] = predicted.gather(1, targets[:, None])[:, 0].cpu()
    return found
