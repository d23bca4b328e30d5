"""Items, texts and measurements that the tests of tuning share."""

from __future__ import annotations

import torch

import faststeer
from faststeer import SteeringVector
from faststeer.data.trait_files import OpenPrompt
from faststeer.evaluate.continuation_sets import set_scores

PROMPTS = [OpenPrompt(f"and then {n}", (" a", " b"), (" c", " d")) for n in range(12)]
OTHERS = [OpenPrompt(f"so it {n * n} was", ("x",), ("y", "z")) for n in range(12)]
PAIRS = [(f"it is {n}, {n % 3}g", f"it is {n}, {n % 4}b") for n in range(16)]
TEXTS = [f"a neutral text of number {n}, about nothing at all" for n in range(9)]
SIZES = {"texts": TEXTS, "randoms": 3, "tried": 2}


def margins(model, tokenizer, prompts) -> torch.Tensor:
    found = set_scores(model, tokenizer, prompts)
    return found.log_positive - found.log_negative


def steered_margins(model, tokenizer, vectors: list[SteeringVector], prompts) -> torch.Tensor:
    """Return how far the vectors move prompts, steered as they state."""
    before = margins(model, tokenizer, prompts)
    with faststeer.patch(model) as patched:
        for vector in vectors:
            patched.steer(vector)
        return margins(model, tokenizer, prompts) - before
