"""Measure a prefill and a decode step with each library, interleaved in one process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from steerers import FASTSTEER, Steer
from torch import Tensor, nn

from faststeer.diagnostics.bench.timing import Samples, round_robin
from faststeer.diagnostics.bench.variants import HOOKS, STOCK, hooked_twin
from faststeer.models.calls import past_argument, past_of
from faststeer.models.inference import random_ids
from faststeer.vectors.random import random_vector

Record = dict[str, Any]
Models = Mapping[str, nn.Module]


def models_of(model: nn.Module, libraries: Mapping[str, Steer]) -> dict[str, nn.Module]:
    """Return the stock model, the fastest hooks, and each library; one vector at every layer."""
    config: Any = model.config
    norms = dict.fromkeys(range(config.num_hidden_layers), 1e-3)
    vector = random_vector("v", norms, config.hidden_size, seed=0)
    steered = {name: steer(model, vector, 1.0) for name, steer in libraries.items()}
    return {STOCK: model, HOOKS: hooked_twin(model, [vector]), **steered}


def positions(ids: Tensor, begin: int) -> Tensor:
    """Return position ids per sequence, as `generate` passes them; repeng needs them on a batch."""
    numbers = torch.arange(begin, begin + ids.shape[1], device=ids.device)
    return numbers.expand_as(ids)


def prefill(models: Models, ids: Tensor, rounds: int) -> Samples:
    numbers = positions(ids, 0)

    def forward(model: nn.Module) -> object:
        return model(input_ids=ids, position_ids=numbers, use_cache=True, logits_to_keep=1)

    return round_robin(models, ids.device, lambda: None, forward, rounds, lambda _: None)


def decode(models: Models, ids: Tensor, rounds: int) -> Samples:
    """Time a step of one token per sequence, after the prompts."""
    with torch.inference_mode():
        cache = past_of(models[STOCK](input_ids=ids, use_cache=True, logits_to_keep=1))
    past = {past_argument(models[STOCK]): cache}
    token = ids[:, -1:]
    numbers = positions(token, ids.shape[1])

    def cut_back() -> None:
        if cache.get_seq_length() > ids.shape[1]:
            cache.crop(-1)

    def step(model: nn.Module) -> object:
        return model(input_ids=token, position_ids=numbers, use_cache=True, **past)

    return round_robin(models, ids.device, cut_back, step, rounds, lambda _: None)


def measure(
    model: nn.Module,
    libraries: Mapping[str, Steer],
    batch_sizes: tuple[int, ...],
    prompt_tokens: int,
    rounds: int,
) -> list[Record]:
    """Return a record per phase, batch size and library; ratios are medians over rounds."""
    models = models_of(model, libraries)
    records = []
    for phase, run in (("prefill", prefill), ("decode", decode)):
        for batch_size in batch_sizes:
            samples = run(models, random_ids(model, batch_size, prompt_tokens), rounds)
            records += [
                {
                    "phase": phase,
                    "batch_size": batch_size,
                    "library": name,
                    "milliseconds": samples.median(name) * 1e3,
                    "against_stock": samples.speedup(STOCK, over=name),
                    "against_faststeer": samples.speedup(FASTSTEER, over=name),
                }
                for name in models
            ]
    return records
