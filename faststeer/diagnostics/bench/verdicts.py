"""Decide whether steered logits are right, by their distance from references and from mistakes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from faststeer.diagnostics.bench.tolerance import rms

EXPECTED, UNSTEERED = "expected", "no steering"  # reference runs of every probe, beside mistakes

# The largest distance from plain hooks, as a share of all that steering changes, and the largest
# projection on a mistake. Rounding, which differs between a run with a cache and one without,
# seldom points that way: 1e-5 was measured in float32, 0.02 in bfloat16.
DISTANCE_LIMIT, HALF_DISTANCE_LIMIT = 1e-3, 0.3
PROJECTION_LIMIT = 0.1
_ABOVE_NOISE = 3.0  # how many times the rounding a mistake must change the logits


@dataclass(frozen=True)
class Verdict:
    """The place of our logits between the expected ones and the mistake that they resemble most."""

    distance: float  # from the expected logits, as a share of all that steering changes
    projection: float  # on the way from the expected logits, 0, to that mistake's, 1
    mistake: str
    change: float  # RMS that the mistake changes in the logits, relative to theirs
    distinguishable: bool  # whether every mistake changes clearly more than rounding

    @classmethod
    def of(cls, ours: Tensor, runs: dict[str, Tensor], noise: float) -> Verdict:
        """Compare `ours` with reference runs.

        Args:
            ours: the logits to judge.
            runs: logits of the same shape by name: `EXPECTED`, `UNSTEERED`, and mistakes.
            noise: the RMS difference that rounding alone makes.
        """
        expected = runs[EXPECTED]
        changes = {name: rms(run - expected) for name, run in runs.items() if name != EXPECTED}
        # Some tokens do not reach the compared logits, such as those beyond a sliding window.
        visible = [name for name, change in changes.items() if change] or [UNSTEERED]
        projections = {name: _projection(ours, expected, runs[name]) for name in visible}
        smallest = min(visible, key=lambda name: changes[name])
        distinguishable = changes[smallest] > _ABOVE_NOISE * noise
        closest = max(projections, key=lambda name: projections[name])
        reported = closest if distinguishable else smallest
        effect = changes[UNSTEERED]
        return cls(
            distance=rms(ours - expected) / effect if effect else 0.0,
            projection=projections[reported],
            mistake=reported,
            change=changes[reported] / rms(expected),
            distinguishable=distinguishable,
        )

    def judge(self, limit: float) -> tuple[bool | None, str]:
        """Return whether the logits are right, None without a verdict, and the numbers in words."""
        change = f"which would change the logits by {self.change:.2g} of their RMS"
        if not self.distinguishable:
            return None, f"no verdict: rounding hides {self.mistake!r}, {change}"
        passed = self.distance <= limit and self.projection <= PROJECTION_LIMIT
        return passed, (
            f"differs from plain hooks by {self.distance:.2g} of the effect (limit {limit:g}) and "
            f"lies {self.projection:.2g} of the way to the mistake {self.mistake!r} "
            f"(limit {PROJECTION_LIMIT:g}), {change}"
        )


def _projection(ours: Tensor, expected: Tensor, wrong: Tensor) -> float:
    """Return how far `ours` is on the way from `expected`, 0, to `wrong`, 1."""
    mistake = (wrong - expected).double().flatten()
    squared = float(mistake @ mistake)
    return abs(float((ours - expected).double().flatten() @ mistake)) / squared if squared else 0.0
