"""A tiny model's logits, and the reference logits with plain hooks."""

import torch
from plain_hooks import hooked, random_vector

IDS = torch.randint(0, 512, (3, 9), generator=torch.Generator().manual_seed(2))
VECTOR = random_vector("v", range(4))


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def expected_with_hooks(model):
    with hooked(model.model, [(VECTOR, 2.0, range(4))]):
        return logits(model)


def close(found, expected) -> bool:
    return bool((found - expected).abs().max() < 5e-6 * expected.abs().max().clamp(min=1))
