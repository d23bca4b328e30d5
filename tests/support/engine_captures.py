"""Captures of vLLM's engine, and what transformers gives for the same texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from running_engines import running
from transformers import PreTrainedModel
from vllm import LLM

import faststeer
from faststeer import Moments, SteeringVector

Prompts = Sequence[Sequence[int]]


@contextmanager
def engine(folder: Path, faststeer: dict[str, Any], **options: Any) -> Iterator[LLM]:
    """Start an engine whose prompts are computed in chunks. `faststeer`: its configuration."""
    settings: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_batched_tokens": 64,  # prompts of more tokens are computed in chunks
        "block_size": 32,
        "additional_config": {"faststeer": faststeer},
    }
    with running(lambda: LLM(model=str(folder), **settings | options)) as llm:
        yield llm


def expected(
    model: PreTrainedModel,
    prompts: Prompts,
    layers: Sequence[int],
    positions: Any = "all",
    answer: int = 0,
    steered: SteeringVector | None = None,
) -> dict[int, Moments]:
    """Return the moments of `faststeer.capture` over prompts, or over their greedy answers too."""
    with faststeer.patch(model) as patched:
        if steered is not None:
            patched.steer(steered, 1.5)
        with faststeer.capture(model, layers=layers, positions=positions) as found, torch.no_grad():
            for prompt in prompts:
                ids = torch.tensor([list(prompt)])
                if answer:
                    model.generate(
                        ids,
                        attention_mask=torch.ones_like(ids),
                        max_new_tokens=answer,
                        min_new_tokens=answer,
                        do_sample=False,
                        pad_token_id=0,
                    )
                else:
                    model.model(ids)
        return found


def assert_equal(found: dict[int, Moments], wanted: dict[int, Moments]) -> None:
    """Compare counts, and means and variances to 1e-5 of their norms."""
    assert found.keys() == wanted.keys()
    for layer, own in wanted.items():
        assert found[layer].count.tolist() == own.count.tolist()
        assert distance(found[layer].mean, own.mean) < 1e-5
        assert distance(found[layer].variance, own.variance) < 1e-5


def distance(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the distance as a share of the norm of what is wanted."""
    return float((found - wanted).norm() / wanted.norm())
