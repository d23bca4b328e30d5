"""Vectors made on the page: from two lists of sentences, or from a pair of words."""

from __future__ import annotations

import json
import threading
import warnings
from importlib import resources
from typing import Any

from torch import nn

from faststeer.data.templates import pairs
from faststeer.diagnostics.bench.hook_baselines import twin
from faststeer.diagnostics.tuning.result import Tuned
from faststeer.diagnostics.tuning.tune import tune
from faststeer.utils.warnings import FaststeerWarning
from faststeer.vectors.steering_vector import SteeringVector

MOST_LINES, MOST_LETTERS = 200, 500
OPENINGS = 20  # pairs of a word pair; `tune` takes half of them to choose on
# The openings stand in front, so that every pair measures the words after another beginning, and
# both texts end alike, so that the token that is read is not the word itself.
TEMPLATE = "{suffix} I felt {persona}, and this is what I said:"
Pairs = list[tuple[str, str]]


def pairs_of_lists(positive: str, negative: str) -> Pairs:
    """Return pairs of two texts with a sentence per line.

    Raises:
        ValueError: unequal numbers of lines, fewer than 8, too many, or lines that are too long.
    """
    sides = [
        [line.strip() for line in own.splitlines() if line.strip()] for own in (positive, negative)
    ]
    counts = [len(side) for side in sides]
    if counts[0] != counts[1]:
        raise ValueError(
            f"the lists have {counts[0]} and {counts[1]} sentences; write as many in both, one per "
            "line, each beside its opposite"
        )
    if not 8 <= counts[0] <= MOST_LINES:
        raise ValueError(f"each list has {counts[0]} sentences; expected 8 to {MOST_LINES}")
    if any(len(line) > MOST_LETTERS for side in sides for line in side):
        raise ValueError(f"a sentence has more than {MOST_LETTERS} characters; shorten it")
    return list(zip(*sides, strict=True))


def pairs_of_words(positive: str, negative: str, template: str = TEMPLATE) -> Pairs:
    """Return pairs of a template with either word, each with several openings as ``{suffix}``.

    Raises:
        ValueError: a word that is missing or too long, two equal ones, or as `faststeer.pairs`.
    """
    words = positive.strip(), negative.strip()
    if not all(words) or words[0] == words[1]:
        raise ValueError("give two different words, such as happy and sad")
    if max(map(len, (*words, template))) > MOST_LETTERS:
        raise ValueError(f"a word or the template has more than {MOST_LETTERS} characters")
    text = (resources.files("faststeer") / "data" / "openings.json").read_text(encoding="utf-8")
    return pairs(template, [words[0]], [words[1]], json.loads(text)[:OPENINGS])


class Maker:
    """Makes one vector at a time, on a model of its own that shares the weights.

    The batcher answers requests in the meantime.

    Args:
        model: unpatched; it stays as it is.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.model = twin(model)
        self.tokenizer = tokenizer
        self._one = threading.Lock()

    def make(self, name: str, given: Pairs, *, whole: bool) -> tuple[SteeringVector, str]:
        """Extract a vector of pairs, find its layer and coefficient, and report both in words.

        Args:
            name: of the vector.
            given: (positive, negative) texts.
            whole: the texts are read where their two sides differ; otherwise at the last token.

        Raises:
            ValueError: another client makes a vector at the moment, or as `tune`.
        """
        if not name.strip():
            raise ValueError("give the vector a name")
        if not self._one.acquire(blocking=False):
            raise ValueError("another vector is being made; try again in a minute")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", FaststeerWarning)
                tuned: Tuned = tune(
                    self.model,
                    self.tokenizer,
                    {name.strip(): given},
                    extraction={"read_token": "answer" if whole else -1},
                )
        finally:
            self._one.release()
        lines = [repr(tuned)]
        lines += [
            f"warning: {w.message}" for w in caught if issubclass(w.category, FaststeerWarning)
        ]
        return tuned.vectors[0], "\n".join(lines)
