"""What a model says freely while it is steered: how often it repeats itself, how odd that is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import torch

from faststeer.evaluate.bootstrap import interval
from faststeer.evaluate.likelihood import continuation_logprobs
from faststeer.evaluate.provenance import data_hash
from faststeer.evaluate.records import Record, Setting, key_of
from faststeer.experiments.several.measuring import Bench, Found
from faststeer.experiments.several.scored import Estimate
from faststeer.models.inference import continuations
from faststeer.utils.progress import progress_bar

WORDS = 3  # of the n-grams


def prompts(count: int) -> list[str]:
    """Open questions, in the form of the behaviours' own; the first five are of one each."""
    path = resources.files("faststeer") / "data" / "open_questions.json"
    questions: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return [f"Human:\n{question}\n\nAI:\n" for question in questions[:count]]


def said_freely(
    bench: Bench, asked: Sequence[str], new_tokens: int, settings: Sequence[Setting]
) -> Found:
    """What the model says, greedily, after each prompt under each setting.

    The records' ``items`` are ``texts``; of each ``repetition``, ``surprise`` (nats of all its
    tokens under the unsteered model, given the prompt) and ``tokens``.
    """
    subject = bench.subject
    facts = {"kind": "continuations", "tokens": new_tokens, "sha256": data_hash(list(asked))}
    records = bench.records("continuations", facts)
    different = list({key_of(setting): setting for setting in settings}.values())
    left = [own for own in different if key_of(own) not in records.by_key]
    with progress_bar("continuations", len(left), bench.shown) as advance:
        for start in range(0, len(left), subject.at_once):
            chunk = left[start : start + subject.at_once]
            with subject.patched.rows(chunk):
                texts = continuations(
                    subject.model, subject.tokenizer, list(asked) * len(chunk), new_tokens
                )
            said = [texts[n * len(asked) : (n + 1) * len(asked)] for n in range(len(chunk))]
            records.add(zip(chunk, [_judged(bench, asked, own) for own in said], strict=True))
            advance(len(chunk))
    return {key_of(own): records.by_key[key_of(own)] for own in different}


def repetition(text: str) -> float | None:
    """The share of its three words in a row that were there before; None for under three words."""
    words = text.lower().split()
    grams = [tuple(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def repeated(record: Record) -> Estimate | None:
    """The mean repetition of a setting's texts; None where all are too short."""
    values = torch.tensor([own for own in record["items"]["repetition"] if own is not None])
    if not len(values):
        return None
    low, high = interval(lambda at: float(values[at].mean()), len(values))
    return Estimate(float(values.mean()), low, high)


def perplexity(record: Record) -> Estimate | None:
    """Of a setting's texts under the unsteered model; None where it said nothing."""
    both = [
        (s, t)
        for s, t in zip(record["items"]["surprise"], record["items"]["tokens"], strict=True)
        if t
    ]
    if not both:
        return None
    surprise, tokens = torch.tensor(both, dtype=torch.float64).unbind(1)

    def of(at: torch.Tensor) -> float:
        return math.exp(float(surprise[at].sum() / tokens[at].sum()))

    low, high = interval(of, len(both))
    return Estimate(of(torch.arange(len(both))), low, high)


def _judged(bench: Bench, asked: Sequence[str], said: Sequence[str]) -> Mapping[str, Any]:
    subject = bench.subject
    encode = subject.tokenizer
    tokens = [len(encode(text, add_special_tokens=False)["input_ids"]) for text in said]
    said_by = [(p, text) for p, text, count in zip(asked, said, tokens, strict=True) if count]
    surprise = [0.0] * len(said)
    if said_by:
        with subject.patched.rows([{}]):
            logs = continuation_logprobs(subject.model, encode, said_by, subject.batch_size)
        for at, value in zip([n for n, count in enumerate(tokens) if count], logs, strict=True):
            surprise[at] = -float(value)
    items = {
        "texts": list(said),
        "repetition": [repetition(text) for text in said],
        "surprise": surprise,
        "tokens": tokens,
    }
    found = {"items": items}
    means = {"repetition": repeated(found), "perplexity": perplexity(found)}
    scores = {name: None if own is None else own.value for name, own in means.items()}
    return {"scores": scores, **found}
