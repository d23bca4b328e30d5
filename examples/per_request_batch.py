"""Requests of several users in one batch, each steered in its own way, as if it were alone.

    python examples/per_request_batch.py [MODEL]

Vectors, coefficients and positions differ from one sequence to the next. Between two generations
one user turns a coefficient round and another switches theirs off. Each answer is compared with
what the same request gives in a batch of one.
"""

import sys

import torch

import faststeer
from faststeer.data.shipped import Behaviour
from faststeer.models.inference import continuations
from faststeer.models.loading import load

PROMPTS = [
    "Last night we went to the new restaurant and",
    "Last night we went to the new restaurant and",
    "When the war was over, the king",
    "When the war was over, the king",
]
TOKENS = 12


def show(patched, model, tokenizer, batch) -> None:
    """Each user's answer, and whether the request alone gives the same."""
    together = continuations(model, tokenizer, PROMPTS, TOKENS)
    for user, (prompt, row, answer) in enumerate(zip(PROMPTS, batch, together, strict=True), 1):
        with patched.rows([row]):
            (alone,) = continuations(model, tokenizer, [prompt], TOKENS)
        verdict = "same alone" if answer == alone else f"alone {alone!r}"
        print(f"user {user} {row}: {answer!r} [{verdict}]")


def main(name: str) -> None:
    loaded = load(name, dtype=torch.float32)
    model, tokenizer = loaded.model, loaded.tokenizer
    layer = model.config.num_hidden_layers * 2 // 3
    sentiment, tense = (
        faststeer.extract(model, tokenizer, Behaviour.shipped(own).pairs, name=own, layers=layer)
        for own in ("sentiment", "tense")
    )
    rows = [{"sentiment": 1.0}, {"sentiment": -1.0, "tense": 1.0}, {"tense in answers": 1.0}, {}]
    with faststeer.patch(model) as patched:
        patched.steer(sentiment)
        patched.steer(tense)
        patched.steer(tense, name="tense in answers", positions="generated")
        with patched.rows(rows) as batch:
            show(patched, model, tokenizer, batch)
            print("users 1 and 2 change their minds:")
            batch[0] = {"sentiment": -1.0}
            batch[1] = {}
            show(patched, model, tokenizer, batch)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
