"""Modes of vectors under their public names, and the float32 error bound with them."""

import torch
from torch import Tensor

INF = float("inf")
# push, pull, keep, floor, ceiling
ADD, ABLATE, HALVE = (1.0, 0, 0, 0, 0), (0, 1.0, 0, 0, 0), (0, 0.5, 0, 0, 0)
CLAMP, KEEP, KEEP_CLAMP = (0, 1.0, 0, 2.5, 2.5), (1.0, 0, 1.0, 0, 0), (0, 1.0, 1.0, 0.5, 0.5)
# Within bounds, below a ceiling by half of the excess, and at the coefficient or below or above it.
CAP, LOWER, KEEP_RAISE = (0, 1.0, 0, -0.5, 0.25), (0, 0.5, 0, -INF, 0.25), (0, 1.0, 1.0, 0.5, INF)
AT_MOST, AT_LEAST = (1.0, 1.0, 0, -INF, 0), (1.0, 1.0, 0, 0, INF)
MODES = (ADD, ABLATE, HALVE, CLAMP, KEEP, KEEP_CLAMP, CAP, LOWER, KEEP_RAISE, AT_MOST, AT_LEAST)


def unit(*shape: int, generator: torch.Generator | None = None) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


def error_bound(residual: Tensor, x: Tensor | None, coefficient: Tensor, exact: Tensor) -> Tensor:
    """Return a few float32 roundings of the row's norm plus one rounding to the residual's dtype.

    For unit vectors; coefficients without a vector are NaN.
    """
    before = residual.double() + (0 if x is None else x.double())
    size = (before.norm(dim=1) + exact.norm(dim=1) + coefficient.abs().nansum() + 3)[:, None]
    return 1e-6 * size + torch.finfo(residual.dtype).eps * exact.abs()
