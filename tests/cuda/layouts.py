"""Tensors laid out in memory as slices are."""

import torch
from torch import Tensor

# Elements before the first row and between rows. Eight are 16 bytes or 32: packs can be moved.
ALIGNED = ((0, 0), (8, 8), (0, 8))
LAYOUTS = (*ALIGNED, (1, 0), (0, 5), (3, 1))


def laid_out(values: Tensor, layout: tuple[int, int]) -> Tensor:
    """The same rows in a storage that ends with the last of them; NaN before and between."""
    before, gap = layout
    *rows, hidden = values.shape
    stride = hidden + gap
    count = rows[0] if rows else 1
    size = before + max(count - 1, 0) * stride + (hidden if count > 0 else 0)
    room = torch.full((size,), torch.nan, dtype=values.dtype)
    view = room.as_strided(values.shape, (stride, 1) if rows else (1,), before)
    return view.copy_(values)


def storage_of(tensor: Tensor) -> Tensor:
    """All bytes that the tensor is a view of, themselves."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
