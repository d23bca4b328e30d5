"""What a reader yields: the activations of a batch of texts."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ActivationBatch:
    """Activations of a batch of E examples with B texts.

    `indices` ``[E]`` are the examples', `sides` ``[B]`` the texts', and `by_layer` maps layers to
    activations ``[B, H]`` in the model's dtype (float32 where several tokens were averaged) on the
    layer's device. A pair has two rows, one after the other, positive first. `only_sinks`
    ``[L, B]`` bool, on the CPU, tells of which texts nothing but attention sinks was read.
    """

    indices: list[int]
    sides: list[int]
    by_layer: dict[int, Tensor]
    only_sinks: Tensor
