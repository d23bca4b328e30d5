"""Caps in the op: a projection is held within bounds, and what is within them is untouched."""

from __future__ import annotations

import pytest
import torch
from steering_modes import ABLATE, AT_LEAST, AT_MOST, INF, unit
from torch import Tensor

from faststeer import ops
from faststeer.ops import reference

FLOOR, CEILING = -0.5, 0.25
CAP = (0, 1.0, 0, FLOOR, CEILING)


def capped(h: Tensor, v: Tensor, *modes: tuple[float, ...], by: float = 1.0, op=ops) -> Tensor:
    """Apply the vectors to all rows, in order, with one coefficient."""
    index = torch.arange(len(v), dtype=torch.int32)[None]
    coefficient = torch.full((1, len(v)), by)
    return op.steer_add(None, h, v, index, coefficient, torch.tensor(modes))


def rows_around(v: Tensor, projections: list[float]) -> Tensor:
    """Return rows of which the projection on v is as given, and the rest random."""
    h = torch.randn(len(projections), v.shape[-1])
    return h + (torch.tensor(projections) - h @ v[0])[:, None] * v


@pytest.mark.parametrize("hidden", [80, 577])
def test_only_what_lies_outside_is_moved_and_only_along_the_direction(hidden: int) -> None:
    v = unit(1, hidden)
    h = rows_around(v, [-3.0, -0.4, 0.0, 0.2, 5.0])
    found = capped(h, v, CAP)
    torch.testing.assert_close(found @ v[0], torch.tensor([FLOOR, -0.4, 0.0, 0.2, CEILING]))
    assert torch.equal(found[1:4], h[1:4])
    torch.testing.assert_close(found, h + (found @ v[0] - h @ v[0])[:, None] * v)
    for bounds, moved in (((-INF, CEILING), [4]), ((FLOOR, INF), [0]), ((-INF, INF), [])):
        one_sided = capped(h, v, (0, 1.0, 0, *bounds))
        assert (one_sided != h).any(1).nonzero()[:, 0].tolist() == moved


def test_the_coefficient_is_the_share_of_the_way_to_the_bound() -> None:
    v = unit(1, 80)
    h = rows_around(v, [-2.5, 0.0, 4.25])
    torch.testing.assert_close(capped(h, v, CAP, by=0.5) @ v[0], torch.tensor([-1.5, 0.0, 2.25]))
    assert torch.equal(capped(h, v, CAP, by=0.0), h)


def test_with_a_push_the_coefficient_is_the_bound() -> None:
    v = unit(1, 80)
    h = rows_around(v, [-2.5, 0.0, 4.0])
    torch.testing.assert_close(capped(h, v, AT_MOST, by=-1.0) @ v[0], torch.tensor([-2.5, -1, -1]))
    torch.testing.assert_close(capped(h, v, AT_LEAST, by=1.0) @ v[0], torch.tensor([1.0, 1, 4]))
    both = capped(h, v.expand(2, -1), AT_LEAST, AT_MOST, by=1.0)
    torch.testing.assert_close(both @ v[0], torch.ones(3))


def test_a_floor_over_its_ceiling_counts_alone() -> None:
    v = unit(1, 80)
    h = rows_around(v, [-2.0, 0.5, 4.0])
    for op in (ops, reference):
        found = capped(h, v, (0, 1.0, 0, 1.0, -1.0), op=op)
        torch.testing.assert_close(found @ v[0], torch.ones(3))


def test_a_projection_that_is_not_a_number_stays_none() -> None:
    v = unit(1, 80)
    h = rows_around(v, [1.0, 1.0])
    h[0, 3] = torch.nan
    for op in (ops, reference):
        assert capped(h, v, CAP, op=op)[0].isnan().all()


def gradient(h: Tensor, v: Tensor, mode: tuple[float, ...]) -> Tensor:
    h = h.clone().requires_grad_()
    (found,) = torch.autograd.grad((capped(h, v, mode) @ v[0]).sum(), h)
    return found


def test_a_cap_has_the_gradient_of_a_clamp_at_its_bounds_too() -> None:
    v = torch.nn.functional.one_hot(torch.tensor([2]), 8).float()
    h = torch.randn(5, 8)
    h[:, 2] = torch.tensor([-3.0, FLOOR, 0.0, CEILING, 5.0])
    p = h[:, 2].clone().requires_grad_()
    (expected,) = torch.autograd.grad(p.clamp(FLOOR, CEILING).sum(), p)
    assert expected.tolist() == [0, 1, 1, 1, 0]
    assert torch.equal(gradient(h, v, CAP), expected[:, None] * v)


def test_a_removed_projection_of_zero_has_no_gradient_left() -> None:
    v = unit(1, 8)
    assert gradient(torch.zeros(1, 8), v, ABLATE).abs().max() < 1e-6
    assert gradient(torch.zeros(1, 8), v, (0, 1.0, 0, 0.0, 0.0)).abs().max() < 1e-6
