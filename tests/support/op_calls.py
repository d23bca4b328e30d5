"""Random calls of steer_add_rms_norm without modes, and what their results have to be."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from op_arguments import DTYPES, HIDDEN, LAYOUTS, OUTPUT_ULPS, spaced
from torch import Tensor
from ulps import ulps

from faststeer.ops import reference

EPS = 1e-5
NAMES = (
    *("x", "residual", "weight", "eps", "vectors", "index", "coefficient", "modes"),
    "weight_offset",
)


OUT_LAYOUTS = st.sampled_from(("dense", "unaligned", "sliced"))


@st.composite
def calls(draw: st.DrawFn) -> dict:
    """Arguments of steer_add_rms_norm."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    hidden = draw(st.sampled_from(HIDDEN))
    batch, tokens = draw(st.integers(0, 4)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from(DTYPES))
    any_dtype = st.one_of(st.just(dtype), st.sampled_from(DTYPES))

    def random(*shape: int, dtype: torch.dtype) -> Tensor:
        scale = draw(st.sampled_from((1e-3, 1.0, 30.0)))
        values = scale * torch.randn(*shape, generator=generator)
        return spaced(values.to(dtype), draw(LAYOUTS if len(shape) > 1 else OUT_LAYOUTS))

    call = {
        "x": draw(st.sampled_from((True, True, False))) or None,
        "residual": random(batch, tokens, hidden, dtype=dtype),
        "weight": random(hidden, dtype=draw(any_dtype)),
        "eps": EPS,
        "weight_offset": draw(st.sampled_from((0.0, 0.0, 1.0))),
    }
    if call["x"]:
        call["x"] = random(batch, tokens, hidden, dtype=draw(any_dtype))
    if draw(st.booleans()):
        count = max(batch * tokens, 1)
        rows = draw(st.sampled_from([r for r in range(1, count + 1) if count % r == 0]))
        entries, stored = draw(st.integers(0, 11)), draw(st.integers(1, 6))
        call["vectors"] = random(stored, hidden, dtype=draw(any_dtype))
        index = torch.randint(-1, stored, (rows, entries), generator=generator, dtype=torch.int32)
        coefficient = torch.randn(rows, entries, generator=generator)
        if draw(st.booleans()):  # neighbours that share a setting are summed once
            index, coefficient = index[:1].repeat(rows, 1), coefficient[:1].repeat(rows, 1)
        call["index"], call["coefficient"] = index, coefficient
    return call


def check(call: dict, out: Tensor, h: Tensor) -> None:
    """Compare with the specification: h bit for bit, out in ulps of float64 on that h."""
    dtype = call["residual"].dtype
    assert h.dtype == out.dtype == dtype
    entries = (call.get("vectors"), call.get("index"), call.get("coefficient"))
    assert torch.equal(h, reference.steer_add(call["x"], call["residual"], *entries))
    exact = reference.rms_norm(h.double(), call["weight"].double(), EPS, call["weight_offset"])
    assert ulps(out, exact.to(dtype)) <= OUTPUT_ULPS[dtype]
