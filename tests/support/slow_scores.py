"""Reference scores, computed plainly: one forward pass per text, one token at a time."""

from __future__ import annotations

from typing import Any

import torch


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0].double()


def token_by_token(model: Any, rows: list[list[int]]) -> list[dict[str, float]]:
    """Return hits and the negative log-likelihood of each text's tokens but the first."""
    found = []
    for ids in rows:
        logits = logits_of(model, ids)
        own = {"tokens": 0, "top1": 0, "top10": 0, "surprise": 0.0}
        for place in range(len(ids) - 1):
            target = ids[place + 1]
            likelier = int((logits[place] > logits[place, target]).sum())
            own["tokens"] += 1
            own["top1"] += int(logits[place].argmax()) == target
            own["top10"] += likelier < 10
            own["surprise"] -= float(logits[place].log_softmax(-1)[target])
        found.append(own)
    return found


def divergences(model: Any, steered: Any, rows: list[list[int]]) -> list[float]:
    """Return KL(model || steered) over the same tokens of each text."""
    found = []
    for ids in rows:
        before, after = (logits_of(one, ids)[:-1].log_softmax(-1) for one in (model, steered))
        found.append(float((before.exp() * (before - after)).sum()))
    return found
