"""Texts of several lengths, and their activations by `faststeer.activations`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import faststeer

TEXTS = ["a", "some text", "a longer text, to be padded against", "zz", "text " * 12]
CLOSE = 1e-5  # rows, by their norm


def read(model: Any, tokenizer: Any, texts: list[str] = TEXTS, **options: Any) -> Tensor:
    return faststeer.activations(model, tokenizer, texts, progress=False, **options)
