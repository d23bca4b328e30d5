"""Text that is kept as a skill falls: interpolation, intervals, tables and the finding."""

from __future__ import annotations

import math

import pytest

from faststeer.experiments.broad_skills import (
    CODE,
    PYTHON_ONLY,
    TEXT,
)
from faststeer.experiments.broad_skills.findings import (
    comparisons_table,
    kept_in_words,
    price_table,
)
from faststeer.experiments.broad_skills.strength_lines import StrengthLine
from faststeer.experiments.broad_skills.tables import kept_table

SKILLS = {name: {name: 8} for name in (CODE, TEXT)}


def line(
    skill: str, text: list[int], own: list[int], layer: int = 10, kind: str = "vector"
) -> StrengthLine:
    """Return eight documents of a hundred tokens each, with hits at increasing coefficients."""
    records = []
    for step, hits in enumerate(zip(own, text, strict=True)):
        items = {
            name: {
                "tokens": [100] * 8,
                "top1": [count] * 8,
                "top10": [count] * 8,
                "surprise": [1.0] * 8,
                "divergence": [0.0] * 8,
            }
            for name, count in zip((skill, TEXT), hits, strict=True)
        }
        steering = {"v": {str(layer): float(step)}} if step else {}
        records.append({"steering": steering, "scores": {}, "items": items})
    return StrengthLine(kind, skill, [layer], records, {name: {name: 8} for name in (skill, TEXT)})


def test_accuracy_between_two_coefficients_is_interpolated_linearly() -> None:
    steered = line(CODE, text=[50, 40, 25], own=[80, 60, 20])
    assert steered.relative(CODE) == [1, 0.75, 0.25]
    assert steered.kept(0.75) == 0.8
    assert steered.kept(0.5) == pytest.approx(0.65)
    assert math.isnan(steered.kept(0.2))


def test_equal_documents_give_a_zero_width_interval_and_an_unreached_level_gives_none() -> None:
    steered = line(CODE, text=[50, 40, 25], own=[80, 60, 20])
    low, high = steered.interval(lambda at: steered.kept(0.5, documents=at), seed=0)
    assert low == pytest.approx(0.65)
    assert high == pytest.approx(0.65)
    assert steered.interval(lambda at: steered.kept(0.2, documents=at), seed=0) is None


def test_text_kept_is_listed_per_level_with_a_dash_where_the_skill_did_not_fall_that_far() -> None:
    reached = line(CODE, text=[100, 90, 60, 40], own=[100, 80, 50, 30], layer=15)
    never = line(CODE, text=[100, 98], own=[100, 79], kind="permuted means")
    first, second = kept_table([reached, never], seed=0).rows
    kept = [f"{own} ({own} to {own})" for own in ("90.0", "75.0", "60.0", "40.0")]
    assert first == ["layer 15", *kept, 73.3]
    kept = ["98.1 (98.1 to 98.1)", None, None, None]
    assert second == ["layer 10, permuted means", *kept, 62.1]


def test_comparisons_are_signed_differences_at_half_of_the_skill() -> None:
    first = line(CODE, text=[50, 20, 5], own=[80, 40, 10], layer=0)
    middle = line(CODE, text=[50, 40, 25], own=[80, 40, 10])
    permuted = line(CODE, text=[50, 20, 5], own=[80, 40, 10], kind="permuted means")
    never = line(CODE, text=[50, 49, 48], own=[80, 79, 78], kind="random, of equal norm")
    later = line(CODE, text=[50, 48, 46], own=[80, 40, 10], kind="after attention")
    python = line(PYTHON_ONLY, text=[100, 90, 80], own=[100, 50, 10], layer=3)
    table = comparisons_table(
        {CODE: [first, middle], PYTHON_ONLY: [python]},
        {CODE: [permuted, never, later], PYTHON_ONLY: []},
        seed=0,
    )
    own = "general code, layer 10"
    assert table.rows == [
        ["Python, layer 3", own, 90.0, 80.0, "+10.0 [+10.0, +10.0]"],
        [own, "general code, layer 0", 80.0, 40.0, "+40.0 [+40.0, +40.0]"],
        [own, f"{own}, permuted means", 80.0, 40.0, "+40.0 [+40.0, +40.0]"],
        [own, f"{own}, random, of equal norm", 80.0, None, None],
        [f"{own}, after attention", own, 96.0, 80.0, "+16.0 [+16.0, +16.0]"],
    ]


def test_the_finding_in_words_has_the_numbers_of_the_best_layers() -> None:
    first = line(CODE, text=[50, 20, 5], own=[80, 40, 10], layer=0)
    middle = line(CODE, text=[50, 40, 25], own=[80, 40, 10])
    python = line(PYTHON_ONLY, text=[100, 90, 80], own=[100, 50, 10], layer=3)
    words = kept_in_words({CODE: [first, middle], PYTHON_ONLY: [python]}, seed=0)
    assert words.startswith(
        "Where general code has fallen to 50 %, 80.0 % of text is kept (layer 10). "
        "Where Python has fallen to 50 %, 90.0 % of text is kept (layer 3). "
        "The difference, Python less general code, is +10.0 [+10.0, +10.0] points"
    )
    never = line(PYTHON_ONLY, text=[50, 49, 48], own=[80, 79, 78])
    words = kept_in_words({CODE: [middle], PYTHON_ONLY: [never]}, seed=0)
    assert words.endswith("Python does not fall to 50 %.")


def test_a_difference_has_no_interval_if_some_resamples_do_not_reach_the_level() -> None:
    sometimes = line(CODE, text=[100, 90], own=[100, 50], layer=0)
    hits = [[100] * 8, [0, 100] * 4]  # documents that lose all of the skill, or none
    for record, own in zip(sometimes.records, hits, strict=True):
        record["items"][CODE]["top1"] = own
    sometimes = StrengthLine("vector", CODE, [0], sometimes.records, SKILLS)
    always = line(CODE, text=[100, 95], own=[100, 50])
    table = comparisons_table(
        {CODE: [sometimes, always], PYTHON_ONLY: [line(PYTHON_ONLY, [100, 95], [100, 50])]},
        {CODE: [], PYTHON_ONLY: []},
        seed=0,
    )
    assert table.rows[1] == ["general code, layer 10", "general code, layer 0", 95, 90, "+5.0"]


def test_the_price_of_a_point_of_the_skill_is_told_early_and_late() -> None:
    dearer = line(CODE, text=[100, 90, 60, 40], own=[100, 80, 50, 30], layer=15)
    shallow = line(PYTHON_ONLY, text=[100, 95, 80], own=[100, 80, 50], layer=3)
    assert price_table({CODE: [dearer], PYTHON_ONLY: [shallow]}, seed=0).rows == [
        ["general code, layer 15", pytest.approx(0.5), pytest.approx(1.0), "+0.50 [+0.50, +0.50]"],
        ["Python, layer 3", pytest.approx(0.25), None, None],
    ]
