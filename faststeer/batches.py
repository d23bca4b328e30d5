"""Batches of token ids: padded on the left or random, for checks and timing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Batch:
    """Token ids ``[B, T]`` int64 and a mask ``[B, T]`` int64 that is 0 where they are padding."""

    ids: Tensor
    mask: Tensor

    @property
    def positions(self) -> Tensor:
        """Each token's place in its own text, ``[B, T]``; 0 for padding."""
        return (self.mask.cumsum(-1) - 1).clamp(min=0)

    @property
    def real(self) -> Tensor:
        """Which tokens are not padding, ``[B, T]`` bool."""
        return self.mask.bool()


def device_of(model: nn.Module) -> torch.device:
    """Where the model takes its input. Offloaded weights (meta) are moved by hooks, input too."""
    device = next(model.parameters()).device
    return torch.device("cpu") if device.type == "meta" else device


def random_ids(model: nn.Module, batch_size: int, tokens: int) -> Tensor:
    """Ids ``[B, T]`` from all of the model's vocabulary, on its device; equal at each call."""
    config: Any = model.config
    draw = torch.Generator().manual_seed(0)
    return torch.randint(config.vocab_size, (batch_size, tokens), generator=draw).to(
        device_of(model)
    )


def left_padded(rows: Sequence[Sequence[int]], pad: int | None, device: torch.device) -> Batch:
    """Texts of several lengths as one batch on `device`; they end together.

    Padding is masked, so a tokenizer that has no padding token (None) gets token 0.
    """
    return padded(rows, pad, device, "left")


def padded(
    rows: Sequence[Sequence[int]], pad: int | None, device: torch.device, side: str
) -> Batch:
    """As `left_padded`, or with the padding on the "right"; they begin together then."""
    filler = 0 if pad is None else pad
    longest = max(map(len, rows))
    gaps = [longest - len(row) for row in rows]
    before, after = (gaps, [0] * len(rows)) if side == "left" else ([0] * len(rows), gaps)
    lines = list(zip(before, rows, after, strict=True))
    ids = torch.tensor([[filler] * a + list(row) + [filler] * b for a, row, b in lines])
    mask = torch.tensor([[0] * a + [1] * len(row) + [0] * b for a, row, b in lines])
    return Batch(ids.to(device), mask.to(device))


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """The logits ``[P, V]`` float32 of the P tokens that are not padding."""
    call = {"input_ids": batch.ids, "attention_mask": batch.mask, "use_cache": False}
    call["position_ids"] = batch.positions
    with torch.inference_mode():
        output = model(**accepted(model, call))
    wide: Tensor = output.logits[batch.real].float()
    return wide


def accepted(model: nn.Module, call: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `model` has by name; all of them for a wrapper without names."""
    names = inspect.signature(type(model).forward).parameters
    if "input_ids" not in names:
        return dict(call)
    return {name: value for name, value in call.items() if name in names}


def greedy_tokens(model: Any, batch: Batch, count: int) -> Tensor:
    """The `count` tokens ``[B, count]`` that the model finds likeliest, one after another.

    Never an end of text, so that all rows and all models give as many.
    """
    found: Tensor = model.generate(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return found[:, batch.ids.shape[1] :]
