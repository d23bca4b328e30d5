"""Traits: behaviours of models that cannot answer questions, told by how they continue a text.

A trait has pairs of sentences to make a vector from, held-out prompts with two sets of
continuations each, and labelled sentences to train a judge of generated text on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

SHIPPED_TRAITS = ("sentiment", "tense", "person", "number", "formality", "setting")
PARTS = ("validation", "test")
_SIDES = ("positive", "negative")


class OpenPrompt(NamedTuple):
    """A prompt, continuations of it that show a trait, and continuations that show its opposite."""

    prompt: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]


@dataclass(frozen=True)
class Trait:
    """A trait as its file has it.

    `positive` and `negative` name the two sides. `pairs`: (positive, negative) sentences to make a
    vector from. `validation` and `test`: prompts on which settings are chosen, and measured.
    `sentences`: of either side, none of them in the pairs.
    """

    name: str
    description: str
    positive: str
    negative: str
    pairs: Sequence[tuple[str, str]]
    validation: Sequence[OpenPrompt]
    test: Sequence[OpenPrompt]
    sentences: tuple[Sequence[str], Sequence[str]]

    @classmethod
    def shipped(cls, name: str) -> Trait:
        """Load one of `SHIPPED_TRAITS`.

        Raises:
            ValueError: an unknown name.
        """
        if name not in SHIPPED_TRAITS:
            raise ValueError(f"trait {name!r} is unknown; there are {', '.join(SHIPPED_TRAITS)}")
        place = resources.files("faststeer") / "data" / "traits" / f"{name}.json"
        return trait_in(json.loads(place.read_text(encoding="utf-8")), f"{name}.json")


def read_traits(path: str | PathLike[str]) -> list[Trait]:
    """Load the traits of a JSON file: an object, or an array of several.

    An object has ``name``, ``description``, ``positive``, ``negative``; ``pairs``, an array of
    objects with ``positive`` and ``negative``; ``validation`` and ``test``, arrays of groups with
    ``prompts``, ``positive`` and ``negative``, where the two are the sets of continuations of each
    of the prompts; and ``sentences`` with ``positive`` and ``negative``.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is not such a file, or two traits have one name; the message names the file,
            the trait and the key.
    """
    name = Path(path).name
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    rows = content if isinstance(content, list) else [content]
    if not rows:
        raise ValueError(f"{path}: has no traits")
    traits = [trait_in(row, f"{name}, trait {number}") for number, row in enumerate(rows)]
    names = [trait.name for trait in traits]
    if twice := {own for own in names if names.count(own) > 1}:
        raise ValueError(f"{path}: more than one trait is named {sorted(twice)[0]!r}")
    return traits


def trait_in(content: Any, where: str) -> Trait:
    """Return the trait of an object of a file.

    Raises:
        ValueError: a key is missing or has something else; the message begins with `where`.
    """
    texts = {key: _text(content, key, where) for key in ("name", "description", *_SIDES)}
    pairs = [
        (_text(row, "positive", place), _text(row, "negative", place))
        for place, row in _rows(content, "pairs", where)
    ]
    validation, test = (_prompts(content, part, where) for part in PARTS)
    shared = {own.prompt for own in validation} & {own.prompt for own in test}
    if shared:
        raise ValueError(f"{where}: the prompt {min(shared)!r} is in both validation and test")
    sentences = _value(content, "sentences", where)
    positive, negative = (_texts(sentences, side, f"{where}, sentences") for side in _SIDES)
    return Trait(
        **texts,
        pairs=pairs,
        validation=validation,
        test=test,
        sentences=(positive, negative),
    )


def _prompts(content: Any, part: str, where: str) -> list[OpenPrompt]:
    found: list[OpenPrompt] = []
    for place, group in _rows(content, part, where):
        positive, negative = (tuple(_texts(group, side, place)) for side in _SIDES)
        prompts = _texts(group, "prompts", place)
        found += [OpenPrompt(prompt, positive, negative) for prompt in prompts]
    prompts = [own.prompt for own in found]
    if len(set(prompts)) < len(prompts):
        twice = next(own for own in prompts if prompts.count(own) > 1)
        raise ValueError(f"{where}, {part}: the prompt {twice!r} occurs more than once")
    return found


def _rows(content: Any, key: str, where: str) -> list[tuple[str, Any]]:
    rows = _value(content, key, where)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{where}: {key!r} is {_short(rows)}; expected an array of objects")
    return [(f"{where}, {key} {number}", row) for number, row in enumerate(rows)]


def _texts(content: Any, key: str, where: str) -> list[str]:
    texts = _value(content, key, where)
    if not isinstance(texts, list) or not texts or not all(map(_is_text, texts)):
        raise ValueError(f"{where}: {key!r} is {_short(texts)}; expected an array of texts")
    return texts


def _text(content: Any, key: str, where: str) -> str:
    text = _value(content, key, where)
    if not _is_text(text):
        raise ValueError(f"{where}: {key!r} is {_short(text)}; expected a text")
    own: str = text
    return own


def _value(content: Any, key: str, where: str) -> Any:
    if not isinstance(content, dict):
        raise ValueError(f"{where}: {_short(content)}; expected an object with {key!r}")
    if key not in content:
        raise ValueError(f"{where}: has no {key!r}")
    return content[key]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
