from __future__ import annotations

import re
from typing import Any

import pytest

from faststeer import pairs


def test_each_persona_meets_each_suffix() -> None:
    assert pairs("Act {persona}.{suffix}", ["glad", "calm"], ["sad", "upset"], [" I", " You"]) == [
        ("Act glad. I", "Act sad. I"),
        ("Act glad. You", "Act sad. You"),
        ("Act calm. I", "Act upset. I"),
        ("Act calm. You", "Act upset. You"),
    ]


def test_a_template_without_a_placeholder_gets_the_suffix_at_the_end() -> None:
    assert pairs("Act {persona}.", ["glad"], ["sad"], [" I"]) == [("Act glad. I", "Act sad. I")]
    assert pairs("Act {persona}.", ["glad"], ["sad"]) == [("Act glad.", "Act sad.")]


def test_braces_in_a_suffix_or_a_persona_are_literal() -> None:
    assert pairs("{persona}: {suffix}!", ["{suffix}"], ["{x}"], ["{persona} {}"]) == [
        ("{suffix}: {persona} {}!", "{x}: {persona} {}!")
    ]


def test_a_persona_may_be_named_twice() -> None:
    assert pairs("{persona}, {persona}", ["a"], ["b"]) == [("a, a", "b, b")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("Act.", ["a"], ["b"]), "template 'Act.' has no {persona} to fill in"),
        (("{persona}", [], []), "got 0 positives and 0 negatives"),
        (("{persona}", ["a", "b"], ["c"]), "got 2 positives and 1 negatives; expected as many"),
        (("{persona}", ["a"], ["b"], []), "suffixes is empty; leave it out for none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pairs_refuses_wrong_arguments(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        pairs(*given)
