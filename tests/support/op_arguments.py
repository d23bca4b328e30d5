"""Arguments of the ops: dtypes, sizes, and every memory layout."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OUTPUT_ULPS = {torch.float32: 4, torch.bfloat16: 1, torch.float16: 1}
HIDDEN = (1, 2, 7, 15, 16, 31, 32, 33, 63, 65, 111, 128, 193, 576, 1000, 4096, 11008)


def spaced(values: Tensor, layout: str) -> Tensor:
    """Return the same values in another memory layout; gaps hold NaN."""
    if layout == "dense":
        return values.clone()
    if layout == "unaligned":
        room = torch.full((values.numel() + 1,), torch.nan, dtype=values.dtype)
        room[1:] = values.flatten()
        return room[1:].view(values.shape)
    if layout == "sliced":  # rows evenly spaced, with other data between them
        wide = torch.full((*values.shape[:-1], values.shape[-1] + 5), torch.nan, dtype=values.dtype)
        view = wide[..., 2 : 2 + values.shape[-1]]
        view.copy_(values)
        return view
    if layout == "every second":  # the last dimension is not dense
        wide = torch.full((*values.shape, 2), torch.nan, dtype=values.dtype)
        wide[..., 0] = values
        return wide[..., 0]
    assert layout == "uneven"  # leading dimensions that no single row stride describes
    order = list(range(values.dim()))
    order[0], order[-2] = order[-2], order[0]
    return values.permute(order).contiguous().permute(order)


LAYOUTS = st.sampled_from(("dense", "unaligned", "sliced", "every second", "uneven"))


def surroundings(view: Tensor) -> int:
    """Return the number of NaN in the storage outside the view."""
    storage = torch.empty(0, dtype=view.dtype).set_(view.untyped_storage())
    inside = int(view.isnan().sum())
    return int(storage.isnan().sum()) - inside
