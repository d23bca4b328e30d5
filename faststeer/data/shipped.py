"""The behaviours that ship with the package: pairs, held-out prompts, and neutral texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

SHIPPED = ("sentiment", "tense")


@dataclass(frozen=True)
class HeldOut:
    """A held-out prompt with a positive and a negative continuation, none of them in the pairs."""

    prompt: str
    positive: str
    negative: str


@dataclass(frozen=True)
class Behaviour:
    """The pairs of a behaviour, the layer and coefficients to steer with, and test prompts."""

    name: str
    description: str
    layer: int
    coefficients: Sequence[float]
    generate_coefficients: Sequence[float]
    pairs: Sequence[tuple[str, str]]
    held_out: Sequence[HeldOut]
    prompts: Sequence[str]

    @classmethod
    def shipped(cls, name: str) -> Behaviour:
        """Load one of `SHIPPED`."""
        facts: dict[str, Any] = json.loads(_data(f"{name}.json"))
        facts["pairs"] = [(pair["positive"], pair["negative"]) for pair in facts["pairs"]]
        facts["held_out"] = [HeldOut(**item) for item in facts["held_out"]]
        return cls(**facts)


def neutral_texts() -> list[str]:
    """Return plain encyclopaedic prose, to measure what steering costs on other texts."""
    return [json.loads(line)["text"] for line in _data("neutral.jsonl").splitlines()]


def prose_texts() -> list[str]:
    """Return `neutral_texts` and 36 more, on which experiments count what steering costs."""
    more = [json.loads(line)["text"] for line in _data("prose.jsonl").splitlines()]
    return [*neutral_texts(), *more]


def _data(name: str) -> str:
    return (resources.files("faststeer") / "data" / name).read_text(encoding="utf-8")
