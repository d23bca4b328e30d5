"""The digest of a decoder's state: the same for what computes the same, another for all else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import MakeTiny

import faststeer
from faststeer.models.model_state import UnknownState, state_digest, tensor_digest


def test_the_digest_is_that_of_the_content_patched_or_not(make_tiny: MakeTiny) -> None:
    model = make_tiny()
    digest = state_digest(model.model)
    assert state_digest(make_tiny().model) == digest
    assert state_digest(make_tiny(seed=1).model) != digest
    with faststeer.patch(model):
        assert state_digest(model.model) == digest
    model.config._name_or_path = "elsewhere"
    model.train()
    assert state_digest(model.model) == digest
    with torch.no_grad():
        model.model.norm.weight[5] += 1e-6
    assert state_digest(model.model) != digest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8, torch.bool])
@pytest.mark.parametrize("size", [1, 7, 100, 50_001])
def test_every_element_of_a_tensor_counts(dtype: torch.dtype, size: int) -> None:
    tensor = torch.zeros(size, dtype=dtype)
    digest = tensor_digest("t", tensor)
    seen = {digest}
    for place in {0, size // 2, size - 1}:
        changed = tensor.clone()
        changed[place] = 1
        assert tensor_digest("t", changed) == tensor_digest("t", changed.clone())
        seen.add(tensor_digest("t", changed))
        shifted = torch.cat([tensor[:1], changed])[1:]  # begins inside of its storage
        assert tensor_digest("t", shifted) == tensor_digest("t", changed)
    assert len(seen) == 1 + len({0, size // 2, size - 1})


def offloaded(model: Any) -> None:
    model.model.norm.to("meta")


def hooked(model: Any) -> None:
    model.model.norm.register_forward_pre_hook(lambda *_: None)


def own_forward(model: Any) -> None:
    model.model.norm.forward = lambda hidden: hidden


@pytest.mark.parametrize("change", [offloaded, hooked, own_forward])
def test_what_is_not_known_by_its_content_is_refused(
    make_tiny: MakeTiny, change: Callable[[Any], None]
) -> None:
    model = make_tiny()
    state_digest(model.model)
    change(model)
    with pytest.raises(UnknownState, match="norm"):
        state_digest(model.model)
