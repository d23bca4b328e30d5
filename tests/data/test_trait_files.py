"""Files of traits: the shipped ones keep their rules, and a user's own is read or refused."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest

from faststeer.data.trait_files import SHIPPED_TRAITS, OpenPrompt, Trait, read_traits

OWN = {
    "name": "size",
    "description": "Positive: large things; negative: small ones.",
    "positive": "large",
    "negative": "small",
    "pairs": [{"positive": "A huge house.", "negative": "A tiny house."}],
    "validation": [{"prompts": ["The dog was"], "positive": [" big"], "negative": [" small"]}],
    "test": [
        {"prompts": ["It is", "It was"], "positive": [" huge", " vast"], "negative": [" tiny"]}
    ],
    "sentences": {"positive": ["The hall is huge."], "negative": ["The cup is tiny."]},
}


@pytest.mark.parametrize("name", SHIPPED_TRAITS)
def test_a_shipped_trait_keeps_pairs_and_prompts_apart(name: str) -> None:
    trait = Trait.shipped(name)
    assert len(trait.pairs) == 60
    assert (len(trait.validation), len(trait.test)) == (25, 35)
    sentences = [text for pair in trait.pairs for text in pair]
    assert len(set(sentences)) == 120
    for positive, negative in trait.pairs:
        assert positive[-1] == negative[-1]  # the vector is read there
        assert abs(len(positive.split()) - len(negative.split())) <= 3
    prompts = [own.prompt for own in (*trait.validation, *trait.test)]
    assert len(set(prompts)) == 60
    for prompt in prompts:
        assert not any(text.startswith(prompt) for text in sentences)
    for own in (*trait.validation, *trait.test):
        every = [text for side in own[1:] for text in side]
        assert all(text[0] in " '" and text == text.rstrip() for text in every)
        assert not any(a != b and b.startswith(a) for a in every for b in every)
        assert len(set(every)) == len(every)
    sides = [list(side) for side in trait.sentences]
    assert len(sides[0]) == len(sides[1]) >= 20
    assert not set(sentences) & {text for side in sides for text in side}


@pytest.mark.parametrize("name", SHIPPED_TRAITS)
def test_validation_and_test_of_a_shipped_trait_have_no_template_in_common(name: str) -> None:
    """Prompts of one template share their ends, or their beginnings, of two words or more."""
    trait = Trait.shipped(name)
    parts = [
        {tuple(own.prompt.split()[-2:]) for own in part} for part in (trait.validation, trait.test)
    ]
    assert not parts[0] & parts[1]


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    return path


def test_a_file_has_one_trait_or_several(tmp_path: Path) -> None:
    [one] = read_traits(written(tmp_path, OWN))
    assert one.name == "size"
    assert one.pairs == [("A huge house.", "A tiny house.")]
    assert one.test == [
        OpenPrompt("It is", (" huge", " vast"), (" tiny",)),
        OpenPrompt("It was", (" huge", " vast"), (" tiny",)),
    ]
    two = read_traits(written(tmp_path, [OWN, OWN | {"name": "other"}]))
    assert [trait.name for trait in two] == ["size", "other"]


def changed(**values: object) -> dict:
    return copy.deepcopy(OWN) | values


MISTAKES = [
    ([], "mine.json: has no traits"),
    ([OWN, OWN], "mine.json: more than one trait is named 'size'"),
    (3, "mine.json, trait 0: 3; expected an object with 'name'"),
    ({"name": "size"}, "mine.json, trait 0: has no 'description'"),
    (changed(name=" "), "mine.json, trait 0: 'name' is ' '; expected a text"),
    (changed(pairs=[]), "'pairs' is []; expected an array of objects"),
    (changed(pairs=[{"positive": "a"}]), "trait 0, pairs 0: has no 'negative'"),
    (changed(test=[{"prompts": ["a"]}]), "trait 0, test 0: has no 'positive'"),
    (
        changed(test=[{"prompts": "a", "positive": ["b"], "negative": ["c"]}]),
        "test 0: 'prompts' is 'a'; expected an array of texts",
    ),
    (
        changed(test=[{"prompts": ["a", "a"], "positive": ["b"], "negative": ["c"]}]),
        "trait 0, test: the prompt 'a' occurs more than once",
    ),
    (changed(test=OWN["validation"]), "the prompt 'The dog was' is in both validation and test"),
    (changed(sentences={"positive": ["a"]}), "trait 0, sentences: has no 'negative'"),
]


@pytest.mark.parametrize(("content", "message"), MISTAKES, ids=[m[1][-25:] for m in MISTAKES])
def test_a_broken_file_is_refused_in_words(tmp_path: Path, content, message) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_traits(written(tmp_path, content))


def test_a_file_that_is_not_json_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    with pytest.raises(FileNotFoundError, match=r"mine\.json"):
        read_traits(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"mine\.json: not JSON"):
        read_traits(path)
    with pytest.raises(ValueError, match="trait 'size' is unknown; there are sentiment, tense"):
        Trait.shipped("size")
