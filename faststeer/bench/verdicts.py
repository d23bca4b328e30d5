"""Whether steered logits are right: how far they are from plain hooks, and from likely mistakes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from faststeer.bench.tolerance import rms

RIGHT, NOTHING = "right", "steering nothing"  # runs that every probe has, beside mistakes

# How far ours may be from plain hooks, as a share of all that steering changes; and how far on the
# way to a mistake. Rounding, which a run with a cache and one without do differently, seldom points
# that way: with float32 1e-5 was seen, with bfloat16 0.02.
LIMIT, HALF_LIMIT = 1e-3, 0.3
WAY_LIMIT = 0.1
_PLAIN = 3.0  # times the rounding


@dataclass(frozen=True)
class Verdict:
    """Where ours lies between what is right and the mistake that it is most like."""

    distance: float  # from right, as a share of all that steering changes
    way: float  # from right to that mistake: 0 to 1
    mistake: str
    change: float  # what that mistake changes, relative to the logits
    plain: bool  # whether every mistake is plainer than rounding

    @classmethod
    def of(cls, ours: Tensor, runs: dict[str, Tensor], noise: float) -> Verdict:
        """Compare with the run that is right and with those that are mistakes."""
        right = runs[RIGHT]
        changes = {what: rms(run - right) for what, run in runs.items() if what != RIGHT}
        # Some tokens reach no logit that is compared, as beyond a sliding window.
        seen = [what for what, change in changes.items() if change] or [NOTHING]
        ways = {what: _way(ours, right, runs[what]) for what in seen}
        least = min(seen, key=lambda what: changes[what])
        plain = changes[least] > _PLAIN * noise
        most = max(ways, key=lambda what: ways[what]) if plain else least
        distance = rms(ours - right) / changes[NOTHING] if changes[NOTHING] else 0.0
        return cls(distance, ways[most], most, changes[most] / rms(right), plain)

    def against(self, limit: float) -> tuple[bool | None, str]:
        """Return whether that is right, and the numbers."""
        change = f"which would change the logits by {self.change:.2g} of theirs"
        if not self.plain:
            return None, f"no verdict: rounding hides {self.mistake}, {change}"
        passed = self.distance <= limit and self.way <= WAY_LIMIT
        return passed, (
            f"{self.distance:.2g} of the effect from plain hooks (limit {limit:g}), {self.way:.2g} "
            f"of the way to {self.mistake} (limit {WAY_LIMIT:g}), {change}"
        )


def _way(ours: Tensor, right: Tensor, wrong: Tensor) -> float:
    """Return how far ours is on the way from `right`, 0, to `wrong`, 1."""
    mistake = (wrong - right).double().flatten()
    length = float(mistake @ mistake)
    return abs(float((ours - right).double().flatten() @ mistake)) / length if length else 0.0
