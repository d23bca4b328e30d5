"""What an addition to attention heads adds to the residual stream.

A layer's attention writes ``sum over heads of W_o[:, head] z_head`` into the stream. Adding a
direction to one head's output z adds the direction's image under the head's columns of W_o to the
stream after attention, `resid_mid`, whatever the token.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class HeadColumns(NamedTuple):
    """The output projection of a layer's attention: ``[H, heads * d]``, and the number of heads."""

    weight: Tensor
    heads: int

    @property
    def head_size(self) -> int:
        """Return d, the size of one head's output."""
        return self.weight.shape[1] // self.heads


class HeadWriters(Protocol):
    """How the attention of a model's layers writes into its residual stream."""

    num_layers: int

    def columns(self, layer: int) -> HeadColumns:
        """Return a layer's output projection. Raises ValueError where no image is exact."""

    def origin(self) -> Mapping[str, Any]:
        """Return the metadata by which a vector's model is recognised."""


@singledispatch
def head_writers(model: Any) -> HeadWriters:
    """Return how a model's heads write; packages that know models register theirs.

    Raises:
        TypeError: nothing is registered for this type.
    """
    raise TypeError(f"from_heads() got a {type(model).__name__}; expected a transformers model")


def images(
    writers: HeadWriters, directions: Mapping[tuple[int, int], Tensor]
) -> tuple[dict[int, Tensor], dict[str, list[int]]]:
    """Return the images ``[H]`` by layer, summed over heads, and the heads by layer.

    Computed in float64.

    Raises:
        TypeError: keys that are not (layer, head), or directions that are not tensors.
        ValueError: no directions, a layer or a head out of range, or another size than a head's.
    """
    if not isinstance(directions, Mapping) or not directions:
        raise ValueError("no heads were given; expected {(layer, head): direction}")
    found: dict[int, Tensor] = {}
    heads: dict[str, list[int]] = {}
    for key in sorted(map(_checked, directions)):
        layer, head = key
        if not 0 <= layer < writers.num_layers:
            raise ValueError(
                f"layer {layer} is out of range: the model has 0 to {writers.num_layers - 1}"
            )
        columns = writers.columns(layer)
        if not 0 <= head < columns.heads:
            raise ValueError(
                f"head {head} is out of range: layer {layer} has 0 to {columns.heads - 1}"
            )
        image = _image(columns, head, directions[key], f"layer {layer}, head {head}")
        found[layer] = found[layer] + image if layer in found else image
        heads.setdefault(str(layer), []).append(head)
    return found, heads


def _checked(key: Any) -> tuple[int, int]:
    if not (
        isinstance(key, tuple) and len(key) == 2 and all(isinstance(part, Integral) for part in key)
    ):
        raise TypeError(f"got the key {key!r}; expected (layer, head)")
    return key


def _image(columns: HeadColumns, head: int, direction: Any, where: str) -> Tensor:
    if not isinstance(direction, Tensor):
        raise TypeError(f"{where}: got a {type(direction).__name__}; expected a tensor [d]")
    size = columns.head_size
    if direction.shape != (size,):
        raise ValueError(
            f"{where}: the direction has shape {tuple(direction.shape)}; the head's output is "
            f"[{size}]"
        )
    own = columns.weight[:, head * size : (head + 1) * size].detach().to("cpu", torch.float64)
    return own @ direction.detach().to("cpu", torch.float64)
