"""Sizes of the experiment: for a first look, for a machine without a GPU, and as in the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faststeer.vectors.arguments import chosen_layers

# The paper's files, and the layer at which each vector steers where all steer at once.
LAYERS_AT_ONCE = {
    "myopic": 11,
    "wealth_seeking": 12,
    "sycophancy": 13,
    "agreeableness": 14,
    "anti_immigration": 15,
}
SHOWN = {
    "myopic": "myopia",
    "wealth_seeking": "wealth seeking",
    "sycophancy": "sycophancy",
    "agreeableness": "agreeableness",
    "anti_immigration": "anti-immigration",
}
LAYERS_TESTED = (10, 15)
_PAPERS_DEPTH, _DEEP_ENOUGH = 32, 24


@dataclass(frozen=True)
class Protocol:
    """Sizes of the experiment. Layers are of a model of 32 layers until they are `fitted`.

    `train`: pairs per vector, in their order or `balanced`: equally many per matching answer, so
    that the direction of the answer's token cancels out. `items`: questions per behaviour on which
    coefficients are chosen, and as many on which they are tested; None for all. `items_at_once`: of
    the former, those on which the coefficients for all vectors at once are chosen, in `rounds`.
    `layers`, `coefficients`: of each vector alone. `at_once`: the global coefficients; two larger
    ones beyond the paper's range, since a small model's vectors are short. `texts`, of at most
    `text_tokens`: half of them to choose on, half to test. `prompts` are continued by `new_tokens`.
    """

    train: int = 500
    balanced: bool = False
    items: int | None = 50
    items_at_once: int = 20
    rounds: int = 2
    layers: tuple[int, ...] = (5, 10, 15, 20)
    coefficients: tuple[float, ...] = (-10.0, -5.0, -2.0, 2.0, 5.0, 10.0)
    at_once: tuple[float, ...] = (*(round(-2 + 0.4 * step, 10) for step in range(11)), 4.0, 8.0)
    texts: int = 24
    text_tokens: int = 160
    prompts: int = 20
    new_tokens: int = 32

    @classmethod
    def quick(cls) -> Protocol:
        """Return sizes that take about a minute; the numbers are too uncertain to use."""
        return cls(
            train=16,
            balanced=True,
            items=4,
            items_at_once=2,
            rounds=1,
            layers=(10, 15),
            coefficients=(-5.0, 5.0),
            at_once=(-1.0, 0.0, 1.0),
            texts=4,
            text_tokens=64,
            prompts=5,
            new_tokens=16,
        )

    @classmethod
    def paper(cls) -> Protocol:
        """Return the paper's grids and numbers of questions, for a GPU."""
        return cls(
            items=None,
            items_at_once=200,
            rounds=4,
            layers=(0, 5, 10, 15, 20, 25, 29, 31),
            coefficients=(-10.0, -5.0, -3.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0),
            at_once=tuple(round(-2 + 0.05 * step, 10) for step in range(81)),
            texts=200,
            text_tokens=512,
        )


def fitted(layer: int, depth: int) -> int:
    """Return the layer of a model of `depth` layers that stands for one of the paper's model.

    The same layer; in shallow models, which have no layer 20, that at the same share of the depth.
    """
    if depth >= _DEEP_ENOUGH:
        return min(layer, depth - 1)
    return round(layer * (depth - 1) / (_PAPERS_DEPTH - 1))


@dataclass(frozen=True)
class Layers:
    """The layers of one model: `alone`, where coefficients are chosen; `tested`, up to two of them,
    with the layer of the paper's model that each stands for, if any; and `at_once`, each vector's
    layer where all steer.
    """

    alone: list[int]
    tested: dict[int, int | None]
    at_once: dict[str, int]

    @classmethod
    def of(
        cls,
        protocol: Protocol,
        names: Sequence[str],
        depth: int,
        alone: str | Sequence[int] | None = None,
    ) -> Layers:
        """Return the layers for a model of `depth` layers; `alone` replaces the protocol's.

        Raises:
            ValueError: a layer of `alone` that the model lacks.
        """
        if alone is None:
            alone = sorted({fitted(layer, depth) for layer in protocol.layers})
        alone = chosen_layers(alone, depth)
        papers = {fitted(layer, depth): layer for layer in LAYERS_TESTED}
        there = [layer for layer in alone if layer in papers] or alone[-2:]
        tested = {layer: papers.get(layer) for layer in there}
        return cls(alone, tested, {name: fitted(LAYERS_AT_ONCE[name], depth) for name in names})

    @property
    def latest(self) -> int:
        """The later tested layer, at which effects on other behaviours are measured."""
        return max(self.tested)

    @property
    def needed(self) -> list[int]:
        """The layers that need directions."""
        return sorted({*self.alone, *self.at_once.values()})
