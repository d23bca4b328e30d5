"""Sizes of the experiment on traits: for a machine without a GPU, and for a first look."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """Sizes of the experiment.

    `depths`: where each vector is tried alone, as shares of the model's depth. `coefficients` are
    tried with either sign. `scales` multiply the coefficients of several vectors at once, and
    `at_once` are coefficients that all of them have in common. `assignments`: of traits to layers.
    `randoms`: random directions per trait. `perplexity`: how much worse a vector alone may make it
    on neutral text. `taxes`: shares of correct next tokens that may be lost, at which ways to
    steer are compared; the first is the one of the verdict. `rounds`: of the search for
    coefficients, on `items_searched` prompts per trait. `texts`, of at most `text_tokens`: half
    to choose on, half to test. `orders`: in which traits are added one by one, at the scales of
    `growth`. `prompts` are continued by `new_tokens`. `items`: prompts per trait and part, and
    `pairs` per vector; None for all.
    """

    depths: tuple[float, ...] = (0.57, 0.64, 0.71, 0.77, 0.81, 0.87)
    coefficients: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    scales: tuple[float, ...] = (0.25, 0.5, 1.0, 1.5)
    at_once: tuple[float, ...] = (0.25, 0.5, 0.8)
    assignments: int = 3
    randoms: int = 8
    perplexity: float = 1.5
    taxes: tuple[float, ...] = (0.05, 0.02, 0.1)
    rounds: int = 1
    items_searched: int = 10
    texts: int = 24
    text_tokens: int = 96
    orders: int = 2
    growth: tuple[float, ...] = (0.5, 1.0, 1.5)
    prompts: int = 20
    new_tokens: int = 24
    items: int | None = None
    pairs: int | None = None

    @classmethod
    def quick(cls) -> Protocol:
        """Return sizes that take about a minute; the numbers are too uncertain to use."""
        return cls(
            depths=(0.64, 0.71, 0.77),
            coefficients=(0.75,),
            scales=(0.5, 1.0),
            at_once=(0.5,),
            assignments=1,
            randoms=1,
            perplexity=4.0,
            rounds=0,
            items_searched=1,
            texts=4,
            text_tokens=32,
            orders=1,
            growth=(1.0,),
            prompts=2,
            new_tokens=8,
            items=3,
            pairs=12,
        )
