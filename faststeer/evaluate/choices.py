"""Questions with two options from files, and the paper's parts of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from os import PathLike

from faststeer.data.questions import EXPECTED, KEYS
from faststeer.evaluate.matching import Choice
from faststeer.jsonl import rows, text_in

TRAIN, VALIDATION = 500, 200
PARTS = ("all", "train", "validation", "test")


def read_choices(path: str | PathLike[str]) -> list[Choice]:
    """Rows of ``question``, ``answer_matching_behavior`` and ``answer_not_matching_behavior``.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is not UTF-8, has no rows, or a row is no such object; the message names
            file, row and key.
    """
    found = rows(path, EXPECTED)
    return [Choice(*(text_in(where, row, key) for key in KEYS)) for where, row in found]


def part_of(choices: Sequence[Choice], part: str, seed: int = 13) -> list[Choice]:
    """The choices, shuffled; of these the first 500 are to train on, 200 to validate, the rest to
    test, as in van der Weij et al. 2024.

    Raises:
        ValueError: an unknown part, or one that so few choices do not have.
    """
    if part not in PARTS:
        raise ValueError(f"part {part!r} is unknown; expected one of {', '.join(PARTS)}")
    shuffled = list(choices)
    random.Random(seed).shuffle(shuffled)
    if part == "all":
        return shuffled
    if len(shuffled) <= TRAIN + VALIDATION:
        raise ValueError(
            f"{len(shuffled)} choices are too few for the part {part!r}: {TRAIN} are to train on "
            f"and {VALIDATION} to validate"
        )
    bounds = {"train": (0, TRAIN), "validation": (TRAIN, TRAIN + VALIDATION)}
    start, stop = bounds.get(part, (TRAIN + VALIDATION, None))
    return shuffled[start:stop]
