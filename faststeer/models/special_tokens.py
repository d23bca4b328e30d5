"""The beginning-of-sequence token (BOS): at most one, and a warning where a model needs it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from faststeer.models.inference import device_of
from faststeer.models.text_calls import unsteered

ROWS = 4  # texts on which a missing BOS is measured
_TOKENS = 64  # of each of them
_FEWEST = 8  # predicted tokens in all; fewer are no evidence
_WORSE = 1.5  # times the perplexity; Gemma 3 270M has 24 times as much

_checked: WeakKeyDictionary[nn.Module, set[tuple[int, bool]]] = WeakKeyDictionary()


def token_ids(
    tokenizer: Any, text: str, add_special_tokens: bool = True, max_length: int | None = None
) -> tuple[list[int], bool]:
    """Return a text's ids, with one BOS at most, and whether `max_length` cut them.

    A text from a chat template brings its own BOS; what the tokenizer puts in front is dropped.
    """
    ids: list[int] = list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    bos = getattr(tokenizer, "bos_token_id", None)
    own = getattr(tokenizer, "bos_token", None)
    twice = bos is not None and ids[:2] == [bos, bos] and bool(own) and text.startswith(str(own))
    if max_length is not None and len(ids) - twice > max_length:
        # By the tokenizer, which knows what belongs at an end.
        cut = tokenizer(
            text,
            add_special_tokens=add_special_tokens,
            truncation=True,
            max_length=max_length + twice,
        )["input_ids"]
        return list(cut)[twice:], True
    return ids[twice:], False


def missing_bos(
    model: nn.Module, tokenizer: Any, rows: Sequence[Sequence[int]], add_special_tokens: bool = True
) -> str | None:
    """Return what to warn of where `rows` lack a BOS that the model needs; once per model.

    Measured as perplexity of the rows without and with it. Of a model without a head, which has no
    perplexity, it is inferred from the tokenizer: it adds a BOS by default, or its chat template
    does. Where BOS is the end-of-text token (GPT-2, GPT-NeoX), texts go without.
    """
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or bos == getattr(tokenizer, "eos_token_id", None):
        return None
    lacking = [list(row[:_TOKENS]) for row in rows if row and row[0] != bos][:ROWS]
    key = bos, add_special_tokens
    if not lacking or key in _checked.get(model, ()):
        return None
    name = getattr(tokenizer, "bos_token", None) or f"token {bos}"
    by_default = token_ids(tokenizer, "a")[0][:1] == [bos]
    template = str(getattr(tokenizer, "chat_template", None) or "")
    if _has_logits(model):
        predicted = sum(len(row) - 1 for row in lacking)
        if predicted < _FEWEST:
            return None
        without = math.exp(_surprise(model, lacking, []) / predicted)
        with_bos = math.exp(_surprise(model, lacking, [bos]) / predicted)
        needed = without > _WORSE * with_bos
        why = f"their perplexity is {without:.4g} without and {with_bos:.4g} with it"
    else:
        needed = by_default or "bos_token" in template
        why = "the tokenizer adds it by default" if by_default else "its chat template has it"
    _checked.setdefault(model, set()).add(key)
    if not needed:
        return None
    if by_default and not add_special_tokens:
        mend = "add_special_tokens=True adds it"
    elif hasattr(tokenizer, "add_bos_token"):
        mend = "tokenizer.add_bos_token = True adds it"
    else:
        mend = f"begin each text with {name!r}"
    return f"texts do not begin with {name!r}, and this model needs it: {why}; {mend}"


def _has_logits(model: nn.Module) -> bool:
    """Return whether the model computes logits from token ids alone."""
    if getattr(model, "get_output_embeddings", lambda: None)() is None:
        return False
    parameters = inspect.signature(type(model).forward).parameters
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        name
        for name, parameter in list(parameters.items())[1:]
        if parameter.default is inspect.Parameter.empty and parameter.kind not in several
    ]
    return set(needed) <= {"input_ids"} and ("input_ids" in parameters or len(parameters) > 1)


def _surprise(model: nn.Module, rows: Sequence[list[int]], before: list[int]) -> float:
    """Return the summed negative log-likelihood, in nats, of all tokens but each row's first."""
    total = 0.0
    for row in rows:
        ids = torch.tensor([before + row], device=device_of(model))
        with unsteered(model):
            logits = model(input_ids=ids).logits[0, len(before) : -1].double()
        target = ids[0, len(before) + 1 :, None].to(logits.device)
        total -= float(logits.log_softmax(-1).gather(1, target).sum())
    return total
