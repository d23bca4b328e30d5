"""Warnings about what was chosen, and how it was measured."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from faststeer.diagnostics.tuning.budget import Budget
from faststeer.diagnostics.tuning.result import Tuned
from faststeer.diagnostics.tuning.sources import Tuning
from faststeer.utils.warnings import FaststeerWarning

_UNSEEN = 0.02  # of the budget's divergence
_SEEN_DOSE = 0.05  # of the stream's norm, from which neutral text should change
_WEAK = 3.0  # times the effect of random directions
_BEYOND = 1.2  # of the budget, on other texts than those it was kept on


def warn_of_the_choice(tuned: Tuned, budget: Budget) -> None:
    """Warn of a setting that does little, costs more than it may, or whose cost is not seen."""
    own = tuned.chosen
    messages = []
    for name, effect in own.effects.items():
        low, high = effect.interval
        measured = f"{effect.mean:+.3g} [{low:.3g}, {high:.3g}] on {tuned.items[name]}"
        if high < 0:
            messages.append(
                f"{name}: the setting does the opposite of what is asked, {measured}; the two "
                "sides may be swapped, in these items or in what the vector was made from"
            )
        elif not low > 0:
            messages.append(
                f"{name}: the effect of the setting cannot be told from none, {measured}; the "
                "vector may not hold what the items differ in, or there are too few of them"
            )
        elif tuned.times_random(name) < _WEAK:
            messages.append(
                f"{name}: the effect is weak, {tuned.times_random(name):.1f} times that of random "
                "directions of the same norm; items that show more of what is meant, or another "
                "read token, may make a better vector"
            )
    used = budget.used(own.damage)
    if used > _BEYOND:
        messages.append(
            f"on the texts that nothing was chosen on, the setting uses {used:.0%} of the budget "
            f"({budget}); more neutral texts to choose on make that less likely"
        )
    if own.damage.kl < _UNSEEN * budget.nats and own.dose > _SEEN_DOSE:
        positions = {str(vector.metadata.get("positions", "all")) for vector in tuned.vectors}
        messages.append(
            f"neutral texts hardly change at a dose of {own.dose:.0%} of the stream's norm: few "
            f"of their tokens are at positions {', '.join(sorted(positions))}, so what the setting "
            "damages elsewhere is not known"
        )
    for message in messages:
        warnings.warn(message, FaststeerWarning, stacklevel=3)


def warn_of_generated(tunings: Sequence[Tuning]) -> None:
    """Warn that vectors of generated tokens are measured at all tokens of texts."""
    names = [own.name for own in tunings if own.vector.metadata.get("positions") == "generated"]
    if names:
        warnings.warn(
            f"{', '.join(map(repr, names))} steers generated tokens, of which given texts have "
            "none: it is measured at all tokens",
            FaststeerWarning,
            stacklevel=3,
        )
