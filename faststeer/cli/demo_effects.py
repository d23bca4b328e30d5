"""Measure what the demo's vectors do, beside random directions of the same norm."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from faststeer.data.shipped import Behaviour, neutral_texts
from faststeer.evaluate.likelihood import continuation_logprobs, perplexity
from faststeer.models.loading import Loaded
from faststeer.patching.patched import Patched
from faststeer.vectors.random import random_vector
from faststeer.vectors.steering_vector import SteeringVector

RANDOM_DIRECTIONS = 4
NEUTRAL_TEXTS = 4


@dataclass(frozen=True)
class Effect:
    """The effect of one coefficient; margins and shifts in nats.

    `random_shift` is the mean absolute shift by random directions, `random_perplexity` that of the
    last of them.
    """

    coefficient: float
    margin: float
    shift: float
    random_shift: float
    perplexity: float
    random_perplexity: float


def random_directions(vector: SteeringVector, count: int) -> list[SteeringVector]:
    """Return random directions that have the vector's norm at each of its layers."""
    return [
        random_vector(f"random {seed}", vector.norms(), vector.hidden_size, seed)
        for seed in range(count)
    ]


def held_out_margin(loaded: Loaded, behaviour: Behaviour) -> float:
    """Return the mean of log p(positive) - log p(negative) over held-out prompts, in nats."""
    items = [(held.prompt, held.positive) for held in behaviour.held_out]
    items += [(held.prompt, held.negative) for held in behaviour.held_out]
    logprobs = continuation_logprobs(loaded.model, loaded.tokenizer, items, batch_size=len(items))
    positive, negative = logprobs.chunk(2)
    return float((positive - negative).mean())


def measure_effects(
    loaded: Loaded,
    patched: Patched,
    behaviour: Behaviour,
    vector: SteeringVector,
    randoms: Sequence[SteeringVector],
) -> list[Effect]:
    """Measure margins on held-out prompts, and perplexity on neutral prose, per coefficient.

    Args:
        loaded: the model and its tokenizer.
        patched: the model's handle; it is cleared.
        behaviour: the held-out prompts and the coefficients.
        vector: the behaviour's vector.
        randoms: the directions that it is compared with.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    neutral = neutral_texts()[:NEUTRAL_TEXTS]

    def margin(steering: SteeringVector, coefficient: float) -> float:
        patched.clear()
        patched.steer(steering, coefficient)
        return held_out_margin(loaded, behaviour)

    unsteered = margin(vector, 0.0)
    effects = []
    for coefficient in behaviour.coefficients:
        random_shifts = [abs(margin(random, coefficient) - unsteered) for random in randoms]
        random_perplexity = perplexity(model, tokenizer, neutral)
        steered = margin(vector, coefficient)
        effects.append(
            Effect(
                coefficient=coefficient,
                margin=steered,
                shift=steered - unsteered,
                random_shift=statistics.mean(random_shifts),
                perplexity=perplexity(model, tokenizer, neutral),
                random_perplexity=random_perplexity,
            )
        )
    patched.clear()
    return effects


def advantage(effects: Sequence[Effect]) -> float:
    """Return how many times as far as random directions the vector moves the margin overall."""
    shift = sum(abs(effect.shift) for effect in effects)
    return shift / sum(effect.random_shift for effect in effects)
