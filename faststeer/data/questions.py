"""Questions with one answer that matches a behaviour and one that does not.

They are read as pairs of texts, to extract vectors from, or as choices, to evaluate steering on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from faststeer.data.chat import ChatFormat, Messages
from faststeer.data.fetching import SETS, folder_of
from faststeer.data.jsonl import rows, text_in

KEYS = _QUESTION, _POSITIVE, _NEGATIVE = (
    "question",
    "answer_matching_behavior",
    "answer_not_matching_behavior",
)
EXPECTED = f"JSONL or a JSON array of objects with {', '.join(KEYS)}"

TRAIN, VALIDATION = 500, 200  # of van der Weij et al. 2024
PARTS = ("all", "train", "validation", "test")


class Choice(NamedTuple):
    """A question with two answers of one token: one that matches the behaviour, and another.

    Spaces around an answer belong to its token, and are ignored when answers are compared.
    """

    question: str
    matching: str
    other: str


class QuestionPairs:
    """Pairs (question + matching answer, question + other answer), one per row.

    The rows of Anthropic's model-written evaluations (JSONL) and of CAA's and the paper's files
    (arrays): ``question``, ``answer_matching_behavior``, ``answer_not_matching_behavior``. They are
    joined without a separator. The paper's end in "I choose (" and "A", so the answer is the last
    token; answers such as " (A)" need ``read_token=-2``, as CAA reads them.

    The whole file is checked and counted first.

    Args:
        path: the file.
        chat: yield the sides as chat messages, for `InChat`: a question "Human: ... AI: ..." in its
            turns, of which the answer continues the last; any other is the user's message, and the
            answer the assistant's.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is not UTF-8, has no rows, or a row is not such an object; the message
            names file, row and key.
    """

    def __init__(self, path: str | PathLike[str], chat: bool = False) -> None:
        self.path = path
        self.chat = chat
        self._count = sum(1 for _ in self)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        join = _answered if self.chat else str.__add__
        for where, row in rows(self.path, EXPECTED):
            question = text_in(where, row, _QUESTION)
            yield (
                join(question, text_in(where, row, _POSITIVE)),
                join(question, text_in(where, row, _NEGATIVE)),
            )

    def __len__(self) -> int:
        return self._count


def behaviour(name: str, folder: str | PathLike[str] | None = None) -> QuestionPairs:
    """Load one of the five behaviours of van der Weij et al. 2024, such as "myopic".

    Args:
        name: the file's name without ``.json``.
        folder: a copy of the files; by default those of `faststeer.data.fetch("behaviours")`.

    Raises:
        FileNotFoundError: there is no such file; the message states how to get it.
        ValueError: an unknown behaviour, or an invalid file.
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


def read_choices(path: str | PathLike[str]) -> list[Choice]:
    """Load the choices of a file with the rows that `QuestionPairs` reads.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is not UTF-8, has no rows, or a row is not such an object; the message
            names file, row and key.
    """
    found = rows(path, EXPECTED)
    return [Choice(*(text_in(where, row, key) for key in KEYS)) for where, row in found]


def chat_prompt(text: str, chat: ChatFormat) -> str:
    """Return "Human: ... AI: ..." in a chat format.

    What follows ``Human:`` is the user's message, and what follows ``AI:`` begins the answer.

    Raises:
        ValueError: a text of another form, and as `ChatFormat.text`.
    """
    turns = _turns(text)
    if turns is None:
        raise ValueError(
            f"--chat: {text[:40]!r} is not of the form 'Human: ... AI: ...', which can be asked in "
            "a chat template"
        )
    user, answer = turns
    return chat.text(_messages(user, answer))


def choices_in_chat(choices: Sequence[Choice], chat: ChatFormat) -> list[Choice]:
    """Return the choices with their questions in a chat format. Raises as `chat_prompt`."""
    return [own._replace(question=chat_prompt(own.question, chat)) for own in choices]


def _turns(text: str) -> tuple[str, str] | None:
    """Return the user's message and the beginning of the answer; None for another form."""
    parts = re.fullmatch(r"Human:\n(.*)\n\nAI:\n(.*)", text, re.DOTALL)
    return None if parts is None else (parts[1], parts[2])


def _messages(user: str, answer: str) -> Messages:
    messages = [{"role": "user", "content": user}]
    return [*messages, {"role": "assistant", "content": answer}] if answer else messages


def _answered(question: str, answer: str) -> Messages:
    user, beginning = _turns(question) or (question, "")
    return _messages(user, beginning + answer)


def part_of(choices: Sequence[Choice], part: str, seed: int = 13) -> list[Choice]:
    """Shuffle the choices and return one part of them.

    The first 500 are for training, the next 200 for validation and the rest for testing, as in van
    der Weij et al. 2024; "all" is every one.

    Raises:
        ValueError: an unknown part, or too few choices for it.
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
