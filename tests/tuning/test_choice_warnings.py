"""What `tune` says of an effect that is weak beside random directions, or goes the other way."""

from __future__ import annotations

import warnings

import torch

from faststeer import FaststeerWarning, SteeringVector
from faststeer.diagnostics.tuning.budget import Budget, Damage
from faststeer.diagnostics.tuning.choice_warnings import warn_of_the_choice
from faststeer.diagnostics.tuning.result import CHOSEN, RANDOM, Effect, Trial, Tuned


def ends(mean: float) -> tuple[float, float]:
    low, high = sorted((mean / 2, 2 * mean))
    return low, high


def said_of(effect: float, by_chance: float) -> list[str]:
    """Return the warnings for an effect with an interval clear of 0."""
    damage = Damage(kl=0.05, kl_interval=(0.04, 0.06), perplexity=1.05, lost=0.01)
    trials = [
        Trial(kind, {"v": {1: 1.0}}, 1.0, 0.1, {"v": Effect(mean, ends(mean))}, damage)
        for kind, mean in ((CHOSEN, effect), (RANDOM, by_chance), (RANDOM, -by_chance))
    ]
    vector = SteeringVector("v", {1: torch.ones(4)})
    tuned = Tuned([vector], trials, "KL at most 0.1", {"v": "10 pairs"}, {"v": "nats"})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FaststeerWarning)
        warn_of_the_choice(tuned, Budget(0.1, None, None))
    return [str(own.message) for own in caught]


def test_an_effect_of_less_than_three_times_chance_is_called_weak() -> None:
    assert said_of(0.4, 0.1) == []
    (message,) = said_of(0.27, 0.1)
    assert message.startswith("v: the effect is weak, 2.7 times that of random directions")


def test_an_effect_clear_of_zero_on_the_wrong_side_is_called_the_opposite() -> None:
    (message,) = said_of(-0.4, 0.1)
    assert message.startswith(
        "v: the setting does the opposite of what is asked, -0.4 [-0.8, -0.2]"
    )
