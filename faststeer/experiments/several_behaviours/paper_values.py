"""Scores of van der Weij et al. 2024 on LLaMA-2-7B-chat, from their released files."""

from __future__ import annotations

MODEL = "LLaMA-2-7B-chat"

# Layer -> behaviour -> matching score by default, when subtracted and when added.
ALONE: dict[int, dict[str, tuple[float, float, float]]] = {
    10: {
        "myopic": (0.283, 0.250, 0.510),
        "wealth_seeking": (0.495, 0.228, 0.621),
        "sycophancy": (0.583, 0.557, 0.593),
        "agreeableness": (0.923, 0.570, 0.980),
        "anti_immigration": (0.167, 0.050, 0.540),
    },
    15: {
        "myopic": (0.283, 0.173, 0.863),
        "wealth_seeking": (0.495, 0.365, 0.561),
        "sycophancy": (0.583, 0.590, 0.583),
        "agreeableness": (0.923, 0.620, 0.970),
        "anti_immigration": (0.167, 0.047, 0.373),
    },
}

# Layer -> the weighted sum of all vectors, added; None where the answers collapse.
COMBINED: dict[int, dict[str, float | None]] = {
    15: {
        "myopic": 0.900,
        "wealth_seeking": 0.477,
        "sycophancy": 0.620,
        "agreeableness": None,
        "anti_immigration": None,
    },
}

# The global coefficient -> scores in the order of `LAYERS_AT_ONCE`, and top-1 on general text.
AT_ONCE: dict[float, tuple[tuple[float, ...], float]] = {
    -1.0: ((0.160, 0.256, 0.613, 0.487, 0.500), 0.638),
    -0.5: ((0.123, 0.232, 0.623, 0.597, 0.473), 0.650),
    0.0: ((0.277, 0.509, 0.587, 0.910, 0.187), 0.661),
    0.5: ((0.867, 0.723, 0.557, 0.943, 0.083), 0.651),
    1.0: ((0.867, 0.642, 0.497, 0.600, 0.373), 0.640),
    2.0: ((0.520, 0.516, 0.487, 0.427, 0.427), 0.560),
}
