"""What `tune` says of an effect that is shown, and yet weak beside random directions."""

from __future__ import annotations

import warnings

import torch

from faststeer import FaststeerWarning, SteeringVector
from faststeer.tuning.budget import Budget, Damage
from faststeer.tuning.choice_warnings import warn_of_the_choice
from faststeer.tuning.result import CHOSEN, RANDOM, Effect, Trial, Tuned


def said_of(effect: float, by_chance: float) -> list[str]:
    """Return the warnings for an effect with an interval clear of 0."""
    damage = Damage(kl=0.05, kl_interval=(0.04, 0.06), perplexity=1.05, lost=0.01)
    trials = [
        Trial(kind, {"v": {1: 1.0}}, 1.0, 0.1, {"v": Effect(mean, (mean / 2, 2 * mean))}, damage)
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
