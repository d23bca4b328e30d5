"""Ways to steer several traits at once, each from weak to strong, added and subtracted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from faststeer.evaluate.records import Setting
from faststeer.experiments.settings import ADD, SUBTRACT, Coefficients, Place, Tuned

ORTHOGONAL = ", orthogonal"  # ends the name of a vector without what it shares with the others

Layers = Mapping[str, int]  # the layer of each trait


@dataclass(frozen=True)
class Way:
    """A way to steer: at each strength, the settings that add and that subtract.

    Strengths multiply the coefficients tuned for each vector alone, or are a coefficient that all
    vectors have in common.
    """

    shown: str
    traits: Sequence[str]
    strengths: Sequence[float]
    settings: Sequence[tuple[Setting, Setting]]

    @property
    def every(self) -> list[Setting]:
        """All settings."""
        return [setting for both in self.settings for setting in both]


def tuned_way(
    shown: str,
    layers: Layers,
    tuned: Tuned,
    scales: Sequence[float],
    own: Coefficients | None = None,
    suffix: str = "",
) -> Way:
    """Return the way of each trait's vector at a layer, with its tuned coefficient there.

    Args:
        shown: the name in tables.
        layers: the layer of each trait; one for all is one combined vector.
        tuned: the coefficients of each vector alone.
        scales: factors of them all.
        own: further factors of each; default 1.
        suffix: ends the names of other vectors to use in place of the traits' own.
    """

    def setting(scale: float, direction: str) -> Setting:
        return {
            name + suffix: {
                layer: scale * (own or {}).get(name, 1.0) * tuned[Place(name, layer, direction)]
            }
            for name, layer in layers.items()
        }

    pairs = [(setting(scale, ADD), setting(scale, SUBTRACT)) for scale in scales]
    return Way(shown, list(layers), list(scales), [_without_zeros(both) for both in pairs])


def common_way(shown: str, layers: Layers, coefficients: Sequence[float]) -> Way:
    """Return the way of each trait's vector at its layer, all with one coefficient."""
    settings = [
        (
            {name: {layer: coefficient} for name, layer in layers.items()},
            {name: {layer: -coefficient} for name, layer in layers.items()},
        )
        for coefficient in coefficients
    ]
    return Way(shown, list(layers), list(coefficients), settings)


def _without_zeros(both: tuple[Setting, Setting]) -> tuple[Setting, Setting]:
    added, subtracted = (
        {name: at for name, at in setting.items() if any(at.values())} for setting in both
    )
    return added, subtracted
