"""`when_active`: the condition that a feature of a sparse autoencoder is active."""

from __future__ import annotations

from typing import Any

from faststeer.steering.conditions import Condition, when
from faststeer.vectors.steering_vector import SteeringVector


def when_active(vector: SteeringVector, *, norm: float | None = None, **how: Any) -> Condition:
    """Make a condition for `steer`: a sparse autoencoder's feature is active.

    An autoencoder compares x · w with a threshold, where x is a token's residual stream and w the
    encoder's direction; `when` compares their cosine similarity. They agree for a stream of norm
    `norm`: the threshold is divided by that and by the norm of w. Where the autoencoder normalises
    its input (``constant_norm_rescale``), it compares the cosine itself, and `norm` is not needed.

    Args:
        vector: ``SteeringVector.from_sae(path, feature, part="encoder")``.
        norm: of the residual stream where the vector reads, such as the median of
            `faststeer.diagnostics.residual_norms`.
        how: other arguments of `when`.

    Raises:
        TypeError: not a SteeringVector, or a norm that is not a number.
        ValueError: a vector without the threshold, no norm where one is needed, or one at which
            every stream, or none, is above the threshold.
    """
    if not isinstance(vector, SteeringVector):
        raise TypeError(f"when_active() got a {type(vector).__name__}; expected a SteeringVector")
    facts = vector.metadata.get("sae")
    facts = facts if isinstance(facts, dict) else {}
    if "cosine" in facts:
        threshold = float(facts["cosine"])
    elif "projection" in facts:
        if norm is None:
            raise ValueError(
                f"{vector.name!r} is active above a projection, {facts['projection']:g}: give "
                "norm=, of the residual stream there (faststeer.diagnostics.residual_norms)"
            )
        if isinstance(norm, bool) or not isinstance(norm, (int, float)):
            raise TypeError(f"norm is a {type(norm).__name__}; expected a number")
        if not norm > 0:
            raise ValueError(f"norm is {norm}; expected a number above 0")
        threshold = float(facts["projection"]) / (norm * next(iter(vector.norms().values())))
    else:
        raise ValueError(
            f"vector {vector.name!r} does not state when it is active; expected "
            "SteeringVector.from_sae(path, feature, part='encoder')"
        )
    if not -1 <= threshold <= 1:
        always = "every stream is" if threshold < 0 else "no stream is"
        raise ValueError(
            f"{vector.name!r} is active above a cosine of {threshold:.4g}: {always}"
            + ("" if norm is None else f", at norm {norm:g}")
        )
    return when(vector, above=threshold, **how)
