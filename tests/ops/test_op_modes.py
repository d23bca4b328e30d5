"""Projections, clamps and preserved norms in the op: results and accuracy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_arguments import DTYPES, HIDDEN, LAYOUTS, OUTPUT_ULPS, spaced
from steering_modes import ABLATE, ADD, CLAMP, HALVE, KEEP, MODES, error_bound, unit
from torch import Tensor
from ulps import ulps

from faststeer import ops
from faststeer.ops import reference

EPS = 1e-5


def steered(h: Tensor, vectors: Tensor, *modes: tuple[float, ...]) -> Tensor:
    """Apply all vectors to all rows, in order, with coefficients of 1."""
    index = torch.arange(len(vectors), dtype=torch.int32)[None]
    coefficient = torch.ones(1, len(vectors))
    return ops.steer_add(None, h, vectors, index, coefficient, torch.tensor(modes))


def test_projecting_out_a_direction_removes_it_and_nothing_else() -> None:
    h, v = torch.randn(6, 80), unit(1, 80)
    ablated = steered(h, v, ABLATE)
    assert (ablated @ v[0]).abs().max() < 1e-6
    torch.testing.assert_close(ablated, h - (h @ v[0])[:, None] * v)
    torch.testing.assert_close(steered(h, v, HALVE) @ v[0], 0.5 * (h @ v[0]))


def test_a_clamp_sets_the_projection_regardless_of_its_value() -> None:
    h, v = torch.randn(6, 80), unit(1, 80)
    torch.testing.assert_close(steered(h, v, CLAMP) @ v[0], torch.full((6,), 2.5))


def test_projections_apply_after_additions_and_in_order() -> None:
    h, (a, b) = torch.randn(6, 80), unit(2, 80)
    added = h + a
    ablated = added - (added @ b)[:, None] * b
    torch.testing.assert_close(steered(h, torch.stack([b, a]), ABLATE, ADD), ablated)
    first = h + (2.5 - h @ a)[:, None] * a
    then = first - (first @ b)[:, None] * b
    torch.testing.assert_close(steered(h, torch.stack([a, b]), CLAMP, ABLATE), then)
    assert not torch.allclose(steered(h, torch.stack([b, a]), ABLATE, CLAMP), then)


def test_a_preserved_norm_is_the_norm_before_steering() -> None:
    h, v = torch.randn(6, 80), 10 * unit(2, 80)
    kept = steered(h, v, KEEP, ADD)
    torch.testing.assert_close(kept.norm(dim=1), h.norm(dim=1))
    added = h + v.sum(0)
    torch.testing.assert_close(torch.cosine_similarity(kept, added), torch.ones(6))


def test_preserving_the_norm_changes_no_bit_of_unsteered_rows() -> None:
    h = torch.randn(6, 577)
    assert torch.equal(steered(h, torch.zeros(1, 577), KEEP), h)


def test_a_row_of_zeros_is_not_rescaled() -> None:
    v = unit(1, 80)
    assert torch.equal(steered(torch.zeros(2, 80), 0 * v, KEEP), torch.zeros(2, 80))
    assert torch.equal(steered(torch.zeros(2, 80), v, KEEP), torch.zeros(2, 80))


@st.composite
def calls(draw: st.DrawFn) -> dict:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    hidden, dtype = draw(st.sampled_from(HIDDEN)), draw(st.sampled_from(DTYPES))
    tokens, stored, entries = (
        draw(st.integers(1, 12)),
        draw(st.integers(1, 5)),
        draw(st.integers(0, 5)),
    )
    any_dtype = st.one_of(st.just(dtype), st.sampled_from(DTYPES))

    def rows(count: int, dtype: torch.dtype) -> Tensor:
        return spaced(torch.randn(count, hidden, generator=generator).to(dtype), draw(LAYOUTS))

    settings_ = draw(st.sampled_from([n for n in range(1, tokens + 1) if tokens % n == 0]))
    vectors = unit(stored, hidden, generator=generator).to(draw(any_dtype))
    index = torch.randint(-1, stored, (settings_, entries), generator=generator, dtype=torch.int32)
    modes = torch.tensor(
        draw(
            st.lists(
                st.sampled_from(MODES),
                min_size=stored,
                max_size=stored,
            )
        )
    )
    return {
        "x": rows(tokens, draw(any_dtype)) if draw(st.booleans()) else None,
        "residual": rows(tokens, dtype),
        "weight": torch.rand(hidden, generator=generator).to(draw(any_dtype)),
        "eps": EPS,
        "vectors": spaced(vectors, draw(LAYOUTS)),
        "index": index,
        "coefficient": torch.randn(settings_, entries, generator=generator),
        "modes": modes,
        "weight_offset": draw(st.sampled_from((0.0, 1.0))),
    }


@settings(max_examples=300, deadline=None)
@given(calls())
def test_modes_are_accurate_to_float32_rounding(call: dict) -> None:
    out, h = ops.steer_add_rms_norm(**call)
    wide = {
        n: a.double() if n in ("x", "residual") and a is not None else a for n, a in call.items()
    }
    exact = reference.steer_add(
        *(wide[n] for n in ("x", "residual", "vectors", "index", "coefficient", "modes"))
    )
    bound = error_bound(call["residual"], call["x"], call["coefficient"], exact)
    assert ((h.double() - exact).abs() <= bound).all()
    normed = reference.rms_norm(h.double(), call["weight"].double(), EPS, call["weight_offset"])
    assert ulps(out, normed.to(h.dtype)) <= OUTPUT_ULPS[h.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_modes_that_only_add_give_the_same_bits_as_no_modes(dtype: torch.dtype) -> None:
    h, vectors = torch.randn(12, 577).to(dtype), torch.randn(3, 577)
    index = torch.tensor([[0, 1, 2], [2, -1, 1], [-1, -1, -1]], dtype=torch.int32)
    entries = vectors, index, torch.randn(3, 3)
    plain = torch.tensor([ADD]).repeat(3, 1)
    weight = torch.rand(577).to(dtype)
    found = ops.steer_add_rms_norm(h, h, weight, EPS, *entries, plain)
    for one, other in zip(found, ops.steer_add_rms_norm(h, h, weight, EPS, *entries), strict=True):
        assert torch.equal(one, other)
