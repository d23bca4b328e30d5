"""Layers as messages show them: "layer 15", "layers 0–29", "layers 3, 10–12"."""

from __future__ import annotations

import re
from collections.abc import Iterable


def layers_text(layers: Iterable[int]) -> str:
    """Return layer numbers as text, neighbours joined to ranges: "layers 0–3, 7"."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    shown = ", ".join(f"{r[0]}–{r[-1]}" if len(r) > 1 else f"{r[0]}" for r in runs)
    return f"layers {shown}" if sum(map(len, runs)) > 1 else f"layer {shown}"


def parse_layers(text: str) -> list[int]:
    """Return the layers of text such as "15", "3,4" or "10-12". Raises ValueError for others."""
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?", part)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f"layers {text!r}: expected numbers such as 10,12 or 8-15")
        layers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return layers
