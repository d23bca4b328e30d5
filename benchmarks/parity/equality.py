"""Compare the logits of each library's steered model with faststeer's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from steerers import FASTSTEER, Steer
from torch import nn

from faststeer.data.batches import Batch, left_padded
from faststeer.diagnostics.bench.hook_baselines import median_norms
from faststeer.diagnostics.bench.tolerance import rms
from faststeer.models.inference import greedy_tokens, logits
from faststeer.vectors.random import random_vector
from faststeer.vectors.sites import Site

Record = dict[str, Any]

# As a share of the effect of steering, in float32: 3e-6 was observed.
LIMIT = 1e-4
NEW_TOKENS = 16
COEFFICIENTS = (0.5, -0.25)  # as a share of the residual stream's norm


def prompts(vocabulary: int) -> Batch:
    """Return four prompts of different lengths, padded on the left."""
    draw = torch.Generator().manual_seed(0)
    rows = [
        torch.randint(1, vocabulary, (length,), generator=draw).tolist()
        for length in (23, 7, 16, 1)
    ]
    return left_padded(rows, 0, torch.device("cpu"))


def layers_steered(count: int) -> dict[str, list[int]]:
    """Return the selections of layers to steer, by name."""
    return {"one layer": [count // 2], "every layer": list(range(count))}


def compare(name: str, model: nn.Module, libraries: Mapping[str, Steer]) -> list[Record]:
    """Compare each library's logits with ours, for every choice of layers and coefficient.

    Differences are in units of the root mean square of the change made by steering. Greedy tokens
    of a cached decode count as equal or not.
    """
    config: Any = model.config
    batch = prompts(config.vocab_size)
    stock = logits(model, batch)
    records = []
    for what, layers in layers_steered(config.num_hidden_layers).items():
        sites = [Site(layer, "resid_post") for layer in layers]
        norms = {site.layer: norm for site, norm in median_norms(model, batch, sites).items()}
        vector = random_vector("v", norms, config.hidden_size, seed=0)
        for coefficient in COEFFICIENTS:
            ours = libraries[FASTSTEER](model, vector, coefficient)
            our_logits, our_tokens = logits(ours, batch), greedy_tokens(ours, batch, NEW_TOKENS)
            effect = rms(our_logits - stock)
            for library, steer in libraries.items():
                if library == FASTSTEER:
                    continue
                theirs = steer(model, vector, coefficient)
                difference = rms(logits(theirs, batch) - our_logits) / effect
                same = torch.equal(greedy_tokens(theirs, batch, NEW_TOKENS), our_tokens)
                records.append(
                    {
                        "model": name,
                        "library": library,
                        "steered": what,
                        "coefficient": coefficient,
                        "effect": effect / rms(stock),
                        "difference": difference,
                        "same_tokens": same,
                        "equal": difference <= LIMIT and same,
                    }
                )
    return records
