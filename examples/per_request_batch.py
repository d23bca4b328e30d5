"""Serve requests of several users in one batch, each with its own steering.

    python examples/per_request_batch.py [MODEL]

Vectors, coefficients and positions differ between sequences. Between two generations one user
negates a coefficient and another disables theirs. Each answer is compared with that to the same
request in a batch of one.
"""

import sys

import torch

import faststeer
from faststeer.data.shipped import Behaviour
from faststeer.models import continuations, load

PROMPTS = [
    "Last night we went to the new restaurant and",
    "Last night we went to the new restaurant and",
    "When the war was over, the king",
    "When the war was over, the king",
]
TOKENS = 12


def show(patched, model, tokenizer, batch) -> None:
    """Print each user's answer, and whether the same request alone gets the same one."""
    together = continuations(model, tokenizer, PROMPTS, TOKENS)
    for user, (prompt, row, answer) in enumerate(zip(PROMPTS, batch, together, strict=True), 1):
        with patched.rows([row]):
            (alone,) = continuations(model, tokenizer, [prompt], TOKENS)
        verdict = "same alone" if answer == alone else f"alone {alone!r}"
        print(f"user {user} {row}: {answer!r} [{verdict}]")


def main(model_name: str) -> None:
    loaded = load(model_name, dtype=torch.float32)
    model, tokenizer = loaded.model, loaded.tokenizer
    layer = model.config.num_hidden_layers * 2 // 3
    sentiment, tense = (
        faststeer.extract(model, tokenizer, Behaviour.shipped(name).pairs, name=name, layers=layer)
        for name in ("sentiment", "tense")
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
