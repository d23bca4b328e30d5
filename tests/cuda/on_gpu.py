"""What the tests that need a GPU have in common. `make cuda-check` runs all test_gpu_*.py.

That the kernels compute what the specification says is shown without a GPU, in
test_kernels_on_cpu.py; with one the same is asked of the machine code, and of streams, graphs,
allocators and devices.
"""

from __future__ import annotations

import pytest
import torch
from steering_modes import MODES, error_bound, unit
from torch import Tensor
from ulps import ulps

from faststeer.ops import reference

ON_GPU = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("error::faststeer.FaststeerWarning"),
    pytest.mark.usefixtures("seeded"),
]

EPS = 1e-5
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OUTPUT_ULPS = {torch.float32: 4, torch.bfloat16: 1, torch.float16: 1}
Entries = tuple[Tensor, Tensor, Tensor]


def laid_out(values: Tensor, layout: str) -> Tensor:
    """The same values in memory that is laid out otherwise; gaps hold NaN."""
    if layout == "dense":
        return values.clone()
    gap = 8 if layout == "sliced" else 3  # 3 leaves rows at odd addresses
    wide = values.new_full((*values.shape[:-1], values.shape[-1] + gap), torch.nan)
    view = wide[..., gap // 2 : gap // 2 + values.shape[-1]] if gap == 3 else wide[..., gap:]
    return view.copy_(values)


def random_entries(
    tokens: int, hidden: int, count: int, settings: int, dtype: torch.dtype, stored: int = 6
) -> Entries:
    assert tokens % settings == 0
    vectors = torch.randn(stored, hidden, device="cuda").to(dtype)
    index = torch.randint(-1, stored, (settings, count), dtype=torch.int32, device="cuda")
    return vectors, index, torch.randn(settings, count, device="cuda")


def check(out: Tensor, h: Tensor, x: Tensor | None, residual: Tensor, weight: Tensor, *entries):
    """h bit for bit; out in ulps from float64 on that h."""
    assert torch.equal(h, reference.steer_add(x, residual, *entries))
    exact = reference.rms_norm(h.double(), weight.double(), EPS).to(residual.dtype)
    assert ulps(out, exact) <= OUTPUT_ULPS[residual.dtype]


def entries_with_modes(
    hidden: int, settings: int, count: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A unit vector of each mode, and coefficients with which no projection makes a row longer."""
    vectors = unit(len(MODES), hidden).to(dtype)
    index = torch.randint(-1, len(MODES), (settings, count), dtype=torch.int32)
    coefficient = 2 * torch.rand(settings, count)
    modes = torch.tensor(MODES)
    return vectors.cuda(), index.cuda(), coefficient.cuda(), modes.cuda()


def check_modes(
    out: Tensor, h: Tensor, x: Tensor, residual: Tensor, weight: Tensor, *entries: Tensor
) -> None:
    """h within float32 rounding of float64; out, of a weight with an offset of 1, as in `check`."""
    exact = reference.steer_add(x.double(), residual.double(), *entries)
    assert ((h.double() - exact).abs() <= error_bound(residual, x, entries[2], exact)).all()
    normed = reference.rms_norm(h.double(), weight.double(), EPS, weight_offset=1.0)
    assert ulps(out, normed.to(h.dtype)) <= OUTPUT_ULPS[h.dtype]


def new_state(groups: int, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    count = torch.zeros(groups, dtype=torch.int64, device="cuda")
    mean, m2 = torch.zeros(2, groups, hidden, dtype=torch.float64, device="cuda")
    return count, mean, m2
