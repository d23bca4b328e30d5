"""The beginning-of-sequence token (BOS): a warning where a model needs it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from faststeer.data.encoding import token_ids
from faststeer.models.inference import device_of
from faststeer.models.model_state import UnknownState, tensor_digest
from faststeer.models.text_calls import unsteered

ROWS = 4  # texts on which a missing BOS is measured
_TOKENS = 64  # of each of them
_FEWEST = 8  # predicted tokens in all; fewer are no evidence
_WORSE = 1.5  # times the perplexity; Gemma 3 270M has 24 times as much

# Returns what the second argument measured for the facts of the first, now or in an earlier run.
Remember = Callable[[Mapping[str, Any], Callable[[], str]], str]

_checked: WeakKeyDictionary[nn.Module, set[tuple[int, bool]]] = WeakKeyDictionary()


def missing_bos(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[Sequence[int]],
    add_special_tokens: bool = True,
    remember: Remember | None = None,
) -> str | None:
    """Return what to warn of where `rows` lack a BOS that the model needs; once per model.

    Measured as perplexity of the rows without and with it. Of a model without a head, which has no
    perplexity, it is inferred from the tokenizer: it adds a BOS by default, or its chat template
    does. Where BOS is the end-of-text token (GPT-2, GPT-NeoX), texts go without.
    """
    lacking = rows_without_bos(tokenizer, rows)
    if not lacking:
        return None
    bos: int = tokenizer.bos_token_id
    key = bos, add_special_tokens
    if key in _checked.get(model, ()):
        return None
    if _has_logits(model):
        if not are_evidence(lacking):
            return None
        why = _measured(model, lacking, bos, remember)
    else:
        why = _inferred(tokenizer, bos)
    _checked.setdefault(model, set()).add(key)
    return bos_message(tokenizer, add_special_tokens, why)


def rows_without_bos(tokenizer: Any, rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the first tokens of the first rows without a BOS; none where texts need none."""
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or bos == getattr(tokenizer, "eos_token_id", None):
        return []
    return [list(row[:_TOKENS]) for row in rows if row and row[0] != bos][:ROWS]


def are_evidence(rows: Sequence[Sequence[int]]) -> bool:
    """Return whether rows have enough tokens to tell by them whether a model needs a BOS."""
    return sum(len(row) - 1 for row in rows) >= _FEWEST


def compared_perplexity(
    rows: Sequence[list[int]], bos: int, surprise: Callable[[list[int]], float]
) -> str:
    """Return in words how much worse the perplexity is without a BOS; nothing where it is not.

    `surprise`: returns the summed negative log-likelihood, in nats, of all tokens of the rows but
    each row's first, when they follow the tokens that it is given.
    """
    predicted = sum(len(row) - 1 for row in rows)
    without, with_bos = (math.exp(surprise(own) / predicted) for own in ([], [bos]))
    if without <= _WORSE * with_bos:
        return ""
    return f"their perplexity is {without:.4g} without and {with_bos:.4g} with it"


def bos_message(tokenizer: Any, add_special_tokens: bool, why: str) -> str | None:
    """Return what to warn of where `why` a model needs a BOS; None where that is empty."""
    if not why:
        return None
    bos = tokenizer.bos_token_id
    name = getattr(tokenizer, "bos_token", None) or f"token {bos}"
    if token_ids(tokenizer, "a")[0][:1] == [bos] and not add_special_tokens:
        mend = "add_special_tokens=True adds it"
    elif hasattr(tokenizer, "add_bos_token"):
        mend = "tokenizer.add_bos_token = True adds it"
    else:
        mend = f"begin each text with {name!r}"
    return f"texts do not begin with {name!r}, and this model needs it: {why}; {mend}"


def _inferred(tokenizer: Any, bos: int) -> str:
    """Return in words why the tokenizer suggests that a BOS is needed; nothing where it doesn't."""
    if token_ids(tokenizer, "a")[0][:1] == [bos]:
        return "the tokenizer adds it by default"
    template = str(getattr(tokenizer, "chat_template", None) or "")
    return "its chat template has it" if "bos_token" in template else ""


def _measured(
    model: nn.Module, lacking: list[list[int]], bos: int, remember: Remember | None
) -> str:
    """Return what `compared_perplexity` returns of the model, now or in an earlier run."""

    def measure() -> str:
        return compared_perplexity(lacking, bos, partial(_surprise, model, lacking))

    if remember is None:
        return measure()
    causal: Any = model  # it has a head
    try:
        parameters = causal.get_output_embeddings().named_parameters()
        weights = [tensor_digest(name, own) for name, own in parameters]
    except UnknownState:
        return measure()
    return remember({"kind": "bos", "head": weights, "bos": bos, "rows": lacking}, measure)


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
