"""Modes of vectors under their public names, and the float32 error bound with them."""

import torch
from torch import Tensor

# push, pull, keep
ADD, ABLATE, HALVE, CLAMP = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.5, 0.0), (2.5, 1.0, 0.0)
KEEP, KEEP_CLAMP = (1.0, 0.0, 1.0), (0.5, 1.0, 1.0)
MODES = (ADD, ABLATE, HALVE, CLAMP, KEEP, KEEP_CLAMP)


def unit(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def error_bound(residual: Tensor, x: Tensor | None, coefficient: Tensor, exact: Tensor) -> Tensor:
    """Return a few float32 roundings of the row's norm plus one rounding to the residual's dtype.

    For unit vectors; coefficients without a vector are NaN.
    """
    before = residual.double() + (0 if x is None else x.double())
    size = (before.norm(dim=1) + exact.norm(dim=1) + coefficient.abs().nansum() + 3)[:, None]
    return 1e-6 * size + torch.finfo(residual.dtype).eps * exact.abs()
