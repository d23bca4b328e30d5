"""Layers as messages show them: "layer 15", "layers 0–29", "layers 3, 10–12"."""

from __future__ import annotations

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
