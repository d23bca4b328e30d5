"""A scope as text is the scope that Python makes, and nothing else is evaluated."""

import pytest
from merging_tokenizers import byte_level

import faststeer
from faststeer.steering.scope_text import python_of, require_scope_text, scope_of_text
from faststeer.vectors.position_range import NAMED_POSITIONS

TEXTS = [
    'after("b")',
    ' until("b") & "generated"',
    '"prompt" | first(2)',
    'between("a", "b") | ~at([3, 4])',
    "~(after([5]) & at(6))",
    'between([1], (2, 3)) & "first(8)"',
]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_the_scope_that_python_makes_of_it(text, tokenizer) -> None:
    expected = eval(python_of(text), {"faststeer": faststeer, "tokenizer": tokenizer})
    found = scope_of_text(text, tokenizer)
    assert str(found) == str(expected)
    assert [(type(own), own.key) for own in found.parts()] == [
        (type(own), own.key) for own in expected.parts()
    ]
    assert len({str(scope_of_text(own, tokenizer)) for own in TEXTS}) == len(TEXTS)


@pytest.mark.parametrize("name", [*NAMED_POSITIONS, "first(8)"])
def test_names_stay_names(name) -> None:
    assert scope_of_text(name, None) == name
    assert python_of(name) == repr(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "odd",
        "after()",
        "after('b', tokenizer)",
        "after(*['b'])",
        "after(marker='b')",
        "after(f'{1}')",
        "after('b').mask",
        "after('b') + at(1)",
        "after('b') and at(1)",
        "-at(1)",
        "at([[1]])",
        "at(['b'])",
        "at(1.5)",
        "at(-1)",
        "eval('1')",
        "__import__('os').getcwd()",
        "(lambda: 1)()",
        "at(1); at(2)",
        "after('b'",
        "at(1)\x00",
        "~" * 5000 + "at(1)",
        "(" * 250 + "at(1)",
    ],
)
def test_other_text_is_refused_in_words(text, tokenizer) -> None:
    for refuse in (require_scope_text, python_of, lambda own: scope_of_text(own, tokenizer)):
        with pytest.raises(ValueError, match=r"positions.* (are|is) unknown; expected") as caught:
            refuse(text)
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first(0)", r"positions 'first\(0\)': first\(\) got 0"),
        ('after("")', "an empty text as the marker"),
        ('"prompt" | "generated" & at(1) | "odd"', "positions='odd' is unknown"),
        ('"prompt" & "generated" | at(1)', "& and | take names on one side only"),
        ('~"prompt" & at(1)', "~ takes no name"),
        ('between("a", [1])', "give both markers as text or as ids"),
        ("after(True)", "got a bool"),
        ("after('a', 'b')", "positions"),
    ],
)
def test_values_that_are_not_possible_are_refused_by_the_functions(
    text, message, tokenizer
) -> None:
    require_scope_text(text)
    with pytest.raises((TypeError, ValueError), match=message):
        scope_of_text(text, tokenizer)


def test_a_text_may_be_nested_as_deeply_as_it_may_be_long(tokenizer) -> None:
    deep = "~" * 295 + "at(1)"
    assert str(scope_of_text(deep, tokenizer)) == "not " * 295 + "at the ids [1]"
    assert len(python_of(deep)) > len(deep)
