"""The behaviours that the demo ships: pairs to extract from, held-out questions, prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch

from faststeer.evaluate.likelihood import continuation_logprobs

SHIPPED = ("sentiment", "tense")


@dataclass(frozen=True)
class Held:
    """A prompt with a continuation of each kind; neither is in the pairs."""

    prompt: str
    positive: str
    negative: str


@dataclass(frozen=True)
class Behaviour:
    """What a vector is made from, where it is used, and how its effect is measured."""

    name: str
    description: str
    layer: int
    coefficients: Sequence[float]
    generate_coefficients: Sequence[float]
    pairs: Sequence[tuple[str, str]]
    held_out: Sequence[Held]
    prompts: Sequence[str]

    @classmethod
    def shipped(cls, name: str) -> Behaviour:
        """One of `SHIPPED`."""
        facts: dict[str, Any] = json.loads(_data(f"{name}.json"))
        facts["pairs"] = [(pair["positive"], pair["negative"]) for pair in facts["pairs"]]
        facts["held_out"] = [Held(**item) for item in facts["held_out"]]
        return cls(**facts)

    def margin(self, model: Any, tokenizer: Any) -> float:
        """Mean of log p(positive) - log p(negative) over the held-out prompts, in nats."""
        items = [(held.prompt, held.positive) for held in self.held_out]
        items += [(held.prompt, held.negative) for held in self.held_out]
        logprobs = continuation_logprobs(model, tokenizer, items, batch_size=len(items))
        positive, negative = logprobs.chunk(2)
        return float(torch.mean(positive - negative))


def neutral_texts() -> list[str]:
    """Plain encyclopaedic prose, to see what steering costs elsewhere."""
    return [json.loads(line)["text"] for line in _data("neutral.jsonl").splitlines()]


def _data(name: str) -> str:
    return (resources.files("faststeer") / "data" / name).read_text(encoding="utf-8")
