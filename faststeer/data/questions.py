"""Questions with an answer that shows a behaviour and one that does not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from faststeer.data.fetching import SETS, folder_of
from faststeer.data.jsonl import rows, text_in

KEYS = _QUESTION, _POSITIVE, _NEGATIVE = (
    "question",
    "answer_matching_behavior",
    "answer_not_matching_behavior",
)
EXPECTED = f"JSONL or a JSON array of objects with {', '.join(KEYS)}"


class QuestionPairs:
    """(question + matching answer, question + other answer) of each row.

    The rows of Anthropic's model-written evaluations (JSONL) and of CAA's and the paper's files
    (arrays): ``question``, ``answer_matching_behavior``, ``answer_not_matching_behavior``. Nothing
    is put between question and answer. The paper's end in "I choose (" and "A", so the answer is
    the last token; answers such as " (A)" want ``read_token=-2``, as CAA reads them.

    The whole file is checked and counted first.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is not UTF-8, has no rows, or a row is no such object; the message names
            file, row and key.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path
        self._count = sum(1 for _ in self)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for where, row in rows(self.path, EXPECTED):
            question = text_in(where, row, _QUESTION)
            yield (
                question + text_in(where, row, _POSITIVE),
                question + text_in(where, row, _NEGATIVE),
            )

    def __len__(self) -> int:
        return self._count


def behaviour(name: str, folder: str | PathLike[str] | None = None) -> QuestionPairs:
    """One of the five behaviours of van der Weij et al. 2024, such as "myopic".

    Args:
        name: the file's, without ``.json``.
        folder: one's own copy; by default what `faststeer.data.fetch("behaviours")` got.

    Raises:
        FileNotFoundError: it is not there; the message says how to get it.
        ValueError: an unknown behaviour, or a file that is broken.
    """
    known = [Path(file).stem for file in SETS["behaviours"].files]
    place = folder_of("behaviours") if folder is None else Path(folder)
    file = place / f"{name}.json"
    if Path(name).name != name or (folder is None and name not in known):
        raise ValueError(f"behaviour {name!r} is unknown; there are {', '.join(known)}")
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such file; get it with `faststeer data fetch behaviours`, or name a "
            "folder that has it: --data FOLDER"
        )
    return QuestionPairs(file)


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


class Choice(NamedTuple):
    """A question whose answer is one token: one that matches the behaviour, and another.

    Spaces around an option are of its token, and not of what an answer is compared with.
    """

    question: str
    matching: str
    other: str
