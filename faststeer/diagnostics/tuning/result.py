"""What `tune` found: the vectors with their settings, and the front that they were chosen from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from faststeer.diagnostics.tuning.budget import Damage
from faststeer.vectors.steering_vector import SteeringVector

CHOSEN, FRONT, RANDOM, OTHER = "chosen", "front", "random", "other layer"


@dataclass(frozen=True)
class Effect:
    """How far a vector moves its items, the mean in nats, with a 95 % interval over the items."""

    mean: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Trial:
    """A setting as measured, on items and texts that nothing was chosen on.

    `kind`: "chosen"; "front", other strengths of the same; "other layer", the next best ones; or
    "random", directions of the same norm at the same layers. `steering`: coefficients by vector
    and layer. `factor`: of the chosen coefficients. `dose`: the norms added, as shares of the
    stream's median norm, summed over places. `effects`: by vector, upwards as wanted.
    """

    kind: str
    steering: Mapping[str, Mapping[int, float]]
    factor: float
    dose: float
    effects: Mapping[str, Effect]
    damage: Damage

    def record(self) -> dict[str, Any]:
        """Return the trial as a flat dict."""
        found: dict[str, Any] = {"kind": self.kind, "steering": self.setting(), "dose": self.dose}
        for name, effect in self.effects.items():
            prefix = f"{name}." if len(self.effects) > 1 else ""
            found[f"{prefix}effect"] = effect.mean
            found[f"{prefix}effect_low"], found[f"{prefix}effect_high"] = effect.interval
        found["kl"] = self.damage.kl
        found["kl_low"], found["kl_high"] = self.damage.kl_interval
        return found | {"perplexity": self.damage.perplexity, "lost_tokens": self.damage.lost}

    def setting(self) -> str:
        """Return the coefficients as text."""
        terms = [
            f"{name} {c:+.3g} at {layer}"
            for name, by_layer in self.steering.items()
            for layer, c in by_layer.items()
        ]
        return ", ".join(terms)


@dataclass(frozen=True, repr=False)
class Tuned:
    """The result of `faststeer.tune`.

    `vectors` state the layers and the coefficient that were found, and under ``tuned`` in their
    metadata what was measured. `trials`: the front, in order of strength, then other layers and
    random directions. `items` and `unit`: what effects are counted over, and in.
    """

    vectors: Sequence[SteeringVector]
    trials: Sequence[Trial]
    budget: str
    items: Mapping[str, str]
    units: Mapping[str, str]

    @property
    def vector(self) -> SteeringVector:
        """The one vector. Raises ValueError where several were tuned together."""
        if len(self.vectors) > 1:
            raise ValueError(f"{len(self.vectors)} vectors were tuned together; see `vectors`")
        return self.vectors[0]

    @property
    def chosen(self) -> Trial:
        """The setting that was chosen."""
        return next(own for own in self.trials if own.kind == CHOSEN)

    def of_kind(self, *kinds: str) -> list[Trial]:
        """Return the trials of these kinds, in their order."""
        return [own for own in self.trials if own.kind in kinds]

    def random_effect(self, name: str) -> float:
        """Return how far random directions of the chosen norm move a vector's items, on average."""
        own = [abs(trial.effects[name].mean) for trial in self.of_kind(RANDOM)]
        return sum(own) / len(own)

    def times_random(self, name: str) -> float:
        """Return how many times as far as random directions the chosen setting moves its items."""
        effect, by_chance = self.chosen.effects[name].mean, self.random_effect(name)
        return effect / by_chance if by_chance else math.copysign(math.inf, effect)

    def to_records(self) -> list[dict[str, Any]]:
        """Return the trials as flat dicts, of which pandas makes a table."""
        return [own.record() for own in self.trials]

    def plot(self, path: str | PathLike[str]) -> None:
        """Draw effect over damage, with intervals and random directions, as PNG, SVG or PDF.

        Raises:
            ValueError: matplotlib is not installed.
        """
        from faststeer.diagnostics.tuning.figure import draw

        draw(self, path)

    def __repr__(self) -> str:
        """Return the setting, its effect and its damage, a line each."""
        own = self.chosen
        lines = [f"Tuned({own.setting()}; {100 * own.dose:.0f} % of the stream's norm)"]
        for name, effect in own.effects.items():
            low, high = effect.interval
            times = f"{self.times_random(name):.1f} times random directions'"
            lines.append(
                f"  {name}: {effect.mean:+.3g} {self.units[name]} [{low:.3g}, {high:.3g}] on "
                f"{self.items[name]}, {times} {self.random_effect(name):.3g}"
            )
        damage = own.damage
        lines.append(
            f"  neutral text: KL {damage.kl:.3g} nats, perplexity {damage.perplexity:.3f} times "
            f"unsteered, {100 * damage.lost:.1f} % of right next tokens lost ({self.budget})"
        )
        return "\n".join(lines)
