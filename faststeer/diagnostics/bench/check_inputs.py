"""Build what `faststeer check` runs on: a batch of short texts, token ids and random vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from faststeer.data.batches import Batch, left_padded
from faststeer.diagnostics.bench.hook_baselines import Steering, median_norms
from faststeer.models.decoders import layers_of
from faststeer.models.inference import device_of, random_ids
from faststeer.models.loading import Loaded
from faststeer.vectors.random import random_vector
from faststeer.vectors.sites import Site

# Many short texts: rounding errors of one text's tokens are correlated, those of texts are not.
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def mean(values):\n    return",
    "On a high mountain water boils at a",
    "Dear Sir or Madam,",
    "To be, or not to be, that is",
    "The three primary colours are red,",
    "SELECT name, price FROM products WHERE",
    "In 1969, the first",
    "My favourite recipe for soup begins with",
    "Q: What is the square root of 144? A:",
    "Breaking news: scientists have",
    "He opened the door slowly, and",
    "import numpy as np\n\nx =",
    "The mitochondria is the",
    "Il était une fois",
)

_RELATIVE_NORM = 0.3  # of a vector to the residual stream: as strong as users steer
_COEFFICIENTS = {"resid_pre": 1.0, "resid_mid": -0.75, "resid_post": 1.5}


def built_in_batch(loaded: Loaded) -> Batch:
    """Return `PROMPTS` as a left-padded batch, or without a tokenizer random ids."""
    if loaded.tokenizer is None:
        ids = random_ids(loaded.model, len(PROMPTS), len(PROMPTS) + 1).tolist()
        rows = [tokens[row:] for row, tokens in enumerate(ids)]
    else:
        rows = [loaded.tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    if max(map(len, rows)) == len(rows):  # `layer_output` tells axes by their lengths
        rows.pop()
    return left_padded(rows, 0, device_of(loaded.model))


def distinct_ids(loaded: Loaded) -> list[int]:
    """Return different token ids: those of `PROMPTS`, or without a tokenizer random ones."""
    if loaded.tokenizer is not None:
        ids = (token for prompt in PROMPTS for token in loaded.tokenizer(prompt)["input_ids"])
        return list(dict.fromkeys(ids))
    config: Any = loaded.model.config
    draw = torch.Generator().manual_seed(0)
    vocabulary: list[int] = torch.randperm(config.vocab_size, generator=draw).tolist()
    return vocabulary * (1 + len(PROMPTS) * len(PROMPTS) // len(vocabulary))


def random_steering(model: nn.Module, batch: Batch, kinds: list[str]) -> Steering:
    """Return a vector for each kind of site, at the first, a middle and the last layer.

    Some meet: `resid_pre` of layer L is `resid_post` of layer L-1.
    """
    count = len(layers_of(model))
    ends = {0, count // 2, count - 1}
    layers = {"resid_pre": {0} | {layer + 1 for layer in ends} & set(range(count))}
    sites = {(n, kind): Site.of(n, kind) for kind in kinds for n in sorted(layers.get(kind, ends))}
    norms = median_norms(model, batch, set(sites.values()))
    config: Any = model.config
    hidden_size: int = config.hidden_size
    steering = []
    for seed, kind in enumerate(kinds):
        own = {n: site for (n, of), site in sites.items() if of == kind}
        vector_norms = {n: _RELATIVE_NORM * norms[site] for n, site in own.items()}
        vector = random_vector(f"random {kind}", vector_norms, hidden_size, seed, kind)
        steering.append((vector, _COEFFICIENTS[kind]))
    return steering
