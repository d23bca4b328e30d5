"""Requests to `Batcher`, and what one at a time gives: the answers of `generate` itself."""

from __future__ import annotations

from typing import Any

import torch
from plain_hooks import random_vector

import faststeer
from faststeer.play import Request

PROMPTS = ["The hotel was", "My first impression of", "A", "On the other side of the river, the"]
V = random_vector("v", [0, 2])
W = random_vector("w", [1, 2], seed=1, site="resid_mid")
C = random_vector("c", [0], seed=2)
# Of PROMPTS, some meet it and some do not.
SOME = faststeer.when(C, layer=0, above=0.09)


def single(model: Any, tokenizer: Any, request: Request) -> tuple[list[int], list[int]]:
    """Return both answers of the model's own `generate`, steered by `Patched.steer`."""
    ids = torch.tensor([tokenizer(request.prompt)["input_ids"]])
    arguments = {"max_new_tokens": request.max_new_tokens, "do_sample": False}

    def answer() -> list[int]:
        found = model.generate(ids, attention_mask=torch.ones_like(ids), **arguments)
        return found[0, ids.shape[1] :].tolist()

    unsteered = answer()
    with faststeer.patch(model) as patched:
        for number, use in enumerate(request.uses):
            patched.steer(
                use.vector,
                use.coefficient,
                layers=use.layers,
                positions=use.positions,
                mode=use.mode,
                when=use.when,
                name=str(number),
            )
        return unsteered, answer()


def ids_of(answers: Any) -> tuple[list[int], list[int]]:
    unsteered, steered = answers
    return list(unsteered.ids), list(steered.ids)
