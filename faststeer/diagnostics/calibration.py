"""Calibration: the coefficient with a given effect on neutral text."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import nn

from faststeer.diagnostics.root_search import falls, first_crossing, nearest
from faststeer.evaluate.next_token import token_scores_by_setting
from faststeer.patching.patch import temporarily_patched
from faststeer.steering.resolved_use import positions_in_texts
from faststeer.utils.progress import progress_bar
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.arguments import Layers
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector

_NAME = "faststeer.calibrate"


@dataclass(frozen=True)
class Calibration:
    """The coefficient found and its divergence in nats, with all measurements of the search.

    `measured` maps coefficients to divergences, and `falls` holds pairs of neighbouring measured
    coefficients between which the divergence falls.
    """

    coefficient: float
    divergence: float
    target: float
    measured: dict[float, float]
    falls: list[tuple[float, float]]


def calibrate(
    model: nn.Module,
    tokenizer: Any,
    vector: SteeringVector,
    target: float,
    *,
    texts: Sequence[str] | None = None,
    layers: Layers = None,
    opposite: bool = False,
    tolerance: float = 0.02,
    max_length: int | None = 128,
    progress: bool = False,
    **unknown: NoReturn,
) -> Calibration:
    """Find the smallest measured coefficient whose effect on neutral text reaches the target.

    The effect is ``KL(unsteered || steered)`` of the next token in nats, the mean over all tokens
    of the texts (`TokenScores.kl`). Coefficients double until it reaches the target; then the
    interval below the smallest that does is narrowed. Several coefficients share each forward pass
    as rows of a batch, and the layers below the first steered one run once for all of them.

    The divergence need not rise with the coefficient. If it falls between two measured
    coefficients, a `FaststeerWarning` reports it: larger coefficients may have less effect. Values
    between measured coefficients are not known.

    Args:
        model: a causal model that `patch` accepts, patched or not; its other steering is off.
        tokenizer: its tokenizer.
        vector: the vector to calibrate, in the mode and at the positions that it states; one that
            steers generated tokens is measured at all tokens, with a warning.
        target: nats, above 0. At 0.1 text changes little, at 1 it is a different text.
        texts: neutral texts; by default a few paragraphs of encyclopaedic English prose.
        layers: as for `Patched.steer`.
        opposite: calibrate the opposite direction: coefficients are negative.
        tolerance: accepted difference from the target, as a share of it. In bfloat16 the divergence
            changes in steps, and the nearest step is chosen.
        max_length: texts are truncated to this many tokens.
        progress: show a progress bar, of texts times coefficients measured; how many the search
            needs is not known.
        unknown: nothing; other keywords are refused.

    Raises:
        TypeError: as `Patched.steer`.
        ValueError: a target or tolerance that is not above 0; no texts, or a text with fewer than
            two tokens or more than the model's context; a vector that does not fit the model;
            unsteered logits that are not finite; a target that no coefficient reaches.
    """
    refuse_unknown("calibrate", unknown, "layers")
    for name, value in (("target", target), ("tolerance", tolerance)):
        if not 0 < value < float("inf"):
            raise ValueError(f"{name} is {value:g}; expected a finite number above 0")
    if texts is None:
        from faststeer.data.shipped import neutral_texts

        texts = neutral_texts()
    texts = texts if isinstance(texts, str) else list(texts)  # texts are read several times
    sign = -1.0 if opposite else 1.0

    def divergences(coefficients: list[float]) -> list[float]:
        settings = [{_NAME: sign * coefficient} for coefficient in coefficients]
        unsteered, scores = token_scores_by_setting(
            patched, model, tokenizer, texts, settings, max_length=max_length, advance=advance
        )
        if not unsteered.surprise.isfinite().all():
            raise ValueError(
                "the unsteered model's logits are not finite, so no divergence is defined"
            )
        return [score.kl for score in scores]

    with (
        temporarily_patched(model) as patched,
        progress_bar("calibrating", None, progress) as advance,
    ):
        handle = patched.steer(
            vector, 0.0, layers=layers, name=_NAME, positions=positions_in_texts(vector)
        )
        try:
            known = first_crossing(divergences, target, tolerance)
        finally:
            handle.remove()
    found = nearest(known, target)
    calibration = Calibration(
        sign * found,
        known[found],
        target,
        {0.0 + sign * coefficient: value for coefficient, value in known.items()},  # no -0.0
        [(sign * a, sign * b) for a, b in falls(known, tolerance * target)],
    )
    _warn_of_falls(calibration)
    return calibration


def _warn_of_falls(calibration: Calibration) -> None:
    if calibration.falls:
        where = ", ".join(
            f"from {calibration.measured[a]:.3g} at {a:g} to {calibration.measured[b]:.3g} at {b:g}"
            for a, b in calibration.falls
        )
        warnings.warn(
            f"the divergence does not rise steadily with the coefficient: it falls {where}; "
            f"{calibration.coefficient:g} is the smallest measured one that reaches the target",
            FaststeerWarning,
            stacklevel=3,
        )
