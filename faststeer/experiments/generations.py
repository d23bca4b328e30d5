"""Texts that a steered model generates: how repetitive they are, and their perplexity."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from faststeer.evaluate.bootstrap import interval
from faststeer.evaluate.likelihood import continuation_logprobs
from faststeer.evaluate.provenance import data_hash
from faststeer.evaluate.records import Record, Setting
from faststeer.evaluate.tasks import Subject, Verdict
from faststeer.experiments.estimates import Estimate
from faststeer.models.inference import continuations
from faststeer.utils.progress import Advance

WORDS = 3  # of the n-grams


def open_prompts(count: int) -> list[str]:
    """Return open questions in the form of the behaviours' own; the first five are on one each."""
    path = resources.files("faststeer") / "data" / "open_questions.json"
    questions: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return [f"Human:\n{question}\n\nAI:\n" for question in questions[:count]]


@dataclass(frozen=True)
class GenerationTask:
    """Greedy continuations of prompts; no text ends a line of settings.

    A record's ``items`` are ``texts``, and for each ``repetition``, ``surprise`` (nats of all its
    tokens under the unsteered model, given the prompt) and ``tokens``.
    """

    prompts: Sequence[str]
    new_tokens: int

    @property
    def facts(self) -> dict[str, Any]:
        """The number of new tokens, and the hash of the prompts."""
        sha256 = data_hash(list(self.prompts))
        return {"kind": "continuations", "tokens": self.new_tokens, "sha256": sha256}

    @property
    def items(self) -> int:
        """The number of prompts."""
        return len(self.prompts)

    def check(self, subject: Subject) -> None:
        """Raise ValueError for a prompt without tokens."""
        if not all(subject.tokenizer(prompt)["input_ids"] for prompt in self.prompts):
            raise ValueError("a prompt has no tokens; there is nothing to continue")

    def measure(
        self, subject: Subject, settings: Sequence[Setting], advance: Advance
    ) -> tuple[Record, list[Record]]:
        """Generate under the unsteered model and under each setting."""
        every = [{}, *settings]
        records: list[Record] = []
        for start in range(0, len(every), subject.at_once):
            chunk = every[start : start + subject.at_once]
            prompts = list(self.prompts) * len(chunk)
            with subject.patched.rows(chunk):
                texts = continuations(subject.model, subject.tokenizer, prompts, self.new_tokens)
            for first in range(0, len(texts), self.items):
                records.append(self._record(subject, texts[first : first + self.items]))
            advance(self.items * sum(map(bool, chunk)))
        return records[0], records[1:]

    def verdict(self, record: Record, unsteered: Record) -> Verdict:
        """Continue after every setting."""
        return Verdict.CONTINUE

    def _record(self, subject: Subject, texts: Sequence[str]) -> Record:
        encode = subject.tokenizer
        tokens = [len(encode(text, add_special_tokens=False)["input_ids"]) for text in texts]
        surprise = [0.0] * len(texts)
        there = [number for number, count in enumerate(tokens) if count]
        if there:
            pairs = [(self.prompts[number], texts[number]) for number in there]
            with subject.patched.rows([{}]):
                logs = continuation_logprobs(subject.model, encode, pairs, subject.batch_size)
            for number, value in zip(there, logs, strict=True):
                surprise[number] = -float(value)
        record: Record = {
            "items": {
                "texts": list(texts),
                "repetition": [repetition(text) for text in texts],
                "surprise": surprise,
                "tokens": tokens,
            }
        }
        means = {"repetition": mean_repetition(record), "perplexity": perplexity(record)}
        scores = {name: None if own is None else own.value for name, own in means.items()}
        return {"scores": scores, **record}


def repetition(text: str) -> float | None:
    """Return the share of trigrams of words that occurred before; None for under three words."""
    words = text.lower().split()
    grams = [tuple(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def mean_repetition(record: Record) -> Estimate | None:
    """Return the mean repetition of a setting's texts; None where all are too short."""
    values = torch.tensor([own for own in record["items"]["repetition"] if own is not None])
    if not len(values):
        return None
    low, high = interval(lambda at: float(values[at].mean()), len(values))
    return Estimate(float(values.mean()), low, high)


def perplexity(record: Record) -> Estimate | None:
    """Return the perplexity of a setting's texts under the unsteered model; None without texts."""
    both = zip(record["items"]["surprise"], record["items"]["tokens"], strict=True)
    there = [(surprise, tokens) for surprise, tokens in both if tokens]
    if not there:
        return None
    surprise, tokens = torch.tensor(there, dtype=torch.float64).unbind(1)

    def of(at: torch.Tensor) -> float:
        return math.exp(float(surprise[at].sum() / tokens[at].sum()))

    low, high = interval(of, len(there))
    return Estimate(of(torch.arange(len(there))), low, high)
