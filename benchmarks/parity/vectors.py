"""Compare directions extracted from the same pairs with the other libraries'."""

from __future__ import annotations

from typing import Any

import torch
from steerers import REPENG, STEERING_VECTORS
from torch import Tensor, nn

import faststeer
from faststeer.data.shipped import SHIPPED, Behaviour

Record = dict[str, Any]

LIMIT = 0.999  # minimum cosine over layers


def compare(name: str, model: nn.Module, tokenizer: Any) -> list[Record]:
    """Return the minimum cosine over layers of each library's vectors with ours, in float32.

    repeng is compared without the last layer, which it reads after the final norm.
    """
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    records = []
    for behaviour in SHIPPED:
        pairs = list(Behaviour.shipped(behaviour).pairs)
        positive, negative = (
            faststeer.activations(model, tokenizer, texts, progress=False)
            for texts in zip(*pairs, strict=True)
        )
        differences = positive - negative
        theirs = {
            (STEERING_VECTORS, "mean_difference"): _steering_vectors(model, tokenizer, pairs),
            (REPENG, "pca_diff"): _repeng(model, tokenizer, pairs, "pca_diff"),
            (REPENG, "pca_center"): _repeng(model, tokenizer, pairs, "pca_center"),
        }
        for (library, method), directions in theirs.items():
            vector = faststeer.extract(model, tokenizer, pairs, method=method, progress=False)
            cosine = min(
                _cosine(vector.directions[layer], direction, differences[:, layer])
                for layer, direction in directions.items()
            )
            records.append(
                {
                    "model": name,
                    "library": library,
                    "behaviour": behaviour,
                    "method": method,
                    "layers": len(directions),
                    "cosine": cosine,
                    "equal": cosine >= LIMIT,
                }
            )
    return records


def _cosine(ours: Tensor, theirs: Tensor, differences: Tensor) -> float:
    """Return the cosine, or its absolute value where half of the pairs point each way.

    The sign of repeng's vector is arbitrary if as many differences ``[N, H]`` point one way as the
    other.
    """
    cosine = float(torch.cosine_similarity(ours, theirs, dim=0))
    return abs(cosine) if (differences @ theirs).sign().sum() == 0 else cosine


def _steering_vectors(model: Any, tokenizer: Any, pairs: Any) -> dict[int, Tensor]:
    from steering_vectors import train_steering_vector

    trained = train_steering_vector(model, tokenizer, pairs)
    return {layer: each.float() for layer, each in trained.layer_activations.items()}


def _repeng(model: Any, tokenizer: Any, pairs: Any, method: Any) -> dict[int, Tensor]:
    from repeng import ControlVector, DatasetEntry

    entries = [DatasetEntry(*pair) for pair in pairs]
    layers = range(model.config.num_hidden_layers - 1)
    trained = ControlVector.train(
        model, tokenizer, entries, hidden_layers=layers, method=method, batch_size=8
    )
    return {layer: torch.from_numpy(each) for layer, each in trained.directions.items()}
