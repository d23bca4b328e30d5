"""Distance in units in the last place."""

import torch
from torch import Tensor

_BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def ulps(a: Tensor, b: Tensor) -> int:
    """Return the largest number of representable values between two tensors of one dtype."""
    if a.numel() == 0:
        return 0
    assert a.dtype == b.dtype
    return int((_ordered(a) - _ordered(b)).abs().max())


def _ordered(tensor: Tensor) -> Tensor:
    """Map floats to integers of the same order, with -0 and +0 equal."""
    assert not tensor.isnan().any()
    bits = tensor.contiguous().view(_BITS[tensor.dtype]).to(torch.int64)
    magnitude = bits & (0x7FFFFFFF if tensor.dtype == torch.float32 else 0x7FFF)
    return torch.where(bits < 0, -magnitude, magnitude)
