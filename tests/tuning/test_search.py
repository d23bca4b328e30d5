"""Searches for the strongest coefficient within a budget, on functions that are known."""

from __future__ import annotations

import math

import pytest

from faststeer.diagnostics.tuning.budget import Budget, Damage
from faststeer.diagnostics.tuning.search import best_within, strongest


@pytest.mark.parametrize("start", [0.01, 0.9, 1.0, 1.3, 50.0])
@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_the_search_ends_close_below_the_budget(start, power) -> None:
    asked: list[int] = []

    def used(lines: list[tuple[int, float]]) -> list[float]:
        asked.append(len(lines))
        return [(c / (2.0 + line)) ** power for line, c in lines]

    known = strongest(used, [start, start], 9)
    for line, own in enumerate(known):
        found = best_within(own)
        assert found is not None
        assert 0.93 <= (found / (2.0 + line)) ** power <= 1
    assert asked[0] == 2
    assert len(asked) <= 9


def test_lines_that_have_ended_are_not_measured_again() -> None:
    asked: list[list[int]] = []

    def used(lines: list[tuple[int, float]]) -> list[float]:
        asked.append([line for line, _ in lines])
        return [0.95 if line == 0 else c**2 for line, c in lines]

    strongest(used, [1.0, 0.1], 6)
    assert asked[0] == [0, 1]
    assert all(own == [1] for own in asked[1:])
    assert len(asked) > 1


def test_broken_logits_are_beyond_every_budget() -> None:
    known = strongest(lambda own: [math.nan if c > 1 else c**2 / 9 for _, c in own], [40.0], 9)[0]
    found = best_within(known)
    assert found is not None
    assert 0.5 < found <= 1


def test_a_dip_beyond_the_budget_is_not_taken_for_part_of_it() -> None:
    assert best_within({0.5: 0.4, 1.0: 1.2, 2.0: 0.3}) == 0.5
    assert best_within({1.0: 1.2, 2.0: 0.3}) is None


def test_the_tightest_limit_counts() -> None:
    budget = Budget(kl=0.1, perplexity=1.2, lost=0.05)
    assert budget.used(Damage(0.05, 1.02, 0.01)) == pytest.approx(0.5)
    assert budget.used(Damage(0.01, 1.3, 0.01)) == pytest.approx(1.5)
    assert budget.used(Damage(0.01, 1.0, 0.10)) == pytest.approx(2.0)
    assert budget.used(Damage(math.nan, 1.0, 0.0)) == math.inf


@pytest.mark.parametrize("limits", [{}, {"kl": 0.0}, {"perplexity": 1.0}, {"lost": math.inf}])
def test_budgets_that_nothing_keeps_to_are_refused(limits) -> None:
    with pytest.raises(ValueError, match="expected"):
        Budget(**limits)
