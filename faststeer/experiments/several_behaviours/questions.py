"""The questions of each behaviour: to make a vector from, to choose settings on, to test."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from faststeer.data import behaviour
from faststeer.data.chat import chat_text
from faststeer.data.questions import Choice, part_of, read_choices
from faststeer.evaluate.provenance import data_hash
from faststeer.experiments.several_behaviours.protocol import LAYERS_AT_ONCE, Protocol


@dataclass(frozen=True)
class BehaviourQuestions:
    """One behaviour's questions in three parts that share none."""

    name: str
    train: list[Choice]
    validation: list[Choice]
    test: list[Choice]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs that the vector is made from."""
        return [(own.question + own.matching, own.question + own.other) for own in self.train]

    @property
    def first_option(self) -> tuple[str, float]:
        """An option, and the share of the training questions whose matching answer it is.

        At one half the direction of the answer's token cancels out of a mean difference.
        """
        option = min(self.train[0].matching, self.train[0].other)
        return option, sum(own.matching == option for own in self.train) / len(self.train)

    @property
    def facts(self) -> dict[str, Any]:
        """Counts, and hashes of the questions."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            part: {"questions": len(own), "sha256": data_hash([list(choice) for choice in own])}
            for part, own in parts.items()
        }


def read_behaviours(
    names: Sequence[str], folder: str | PathLike[str] | None, protocol: Protocol, seed: int
) -> list[BehaviourQuestions]:
    """Return the questions of the behaviours, in the order of the names.

    Where only some questions are asked, the two answers match alternately. In a few questions taken
    as they come, one answer matches more often, and giving it more often would look like the
    behaviour.

    Raises:
        FileNotFoundError: a file is missing; the message states how to get it.
        ValueError: an unknown behaviour or one named twice, fewer than two, a broken file, or too
            few questions in it.
    """
    unknown = [name for name in names if name not in LAYERS_AT_ONCE]
    if unknown:
        raise ValueError(
            f"behaviour {unknown[0]!r} is unknown; there are {', '.join(LAYERS_AT_ONCE)}"
        )
    if len(set(names)) < max(2, len(names)):
        raise ValueError(
            f"behaviours {', '.join(names)}: expected at least two, each once; the experiment "
            "measures how they combine"
        )
    return [_in_parts(name, folder, protocol, seed) for name in names]


def in_chat(questions: Sequence[BehaviourQuestions], tokenizer: Any) -> list[BehaviourQuestions]:
    """Return the questions in the form of the tokenizer's chat template.

    What follows ``Human:`` is the user's message, and what follows ``AI:`` begins the answer.

    Raises:
        ValueError: no template, or a question without these two.
    """

    def asked(choices: Sequence[Choice]) -> list[Choice]:
        return [own._replace(question=chat_prompt(own.question, tokenizer)) for own in choices]

    return [
        replace(own, train=asked(own.train), validation=asked(own.validation), test=asked(own.test))
        for own in questions
    ]


def chat_prompt(text: str, tokenizer: Any) -> str:
    """Return "Human: ... AI: ..." in the form of the tokenizer's chat template.

    Raises:
        ValueError: no template, or a text of another form.
    """
    parts = re.fullmatch(r"Human:\n(.*)\n\nAI:\n(.*)", text, re.DOTALL)
    if parts is None:
        raise ValueError(
            f"--chat: {text[:40]!r} is not of the form 'Human: ... AI: ...', which can be asked in "
            "a chat template"
        )
    messages = [{"role": "user", "content": parts[1]}]
    if parts[2]:
        messages.append({"role": "assistant", "content": parts[2]})
    return chat_text(messages, tokenizer)


def _in_parts(
    name: str, folder: str | PathLike[str] | None, protocol: Protocol, seed: int
) -> BehaviourQuestions:
    path = behaviour(name, folder).path
    choices = read_choices(path)
    try:
        train, validation, test = (
            part_of(choices, part, seed) for part in ("train", "validation", "test")
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if protocol.balanced:
        train = _alternating(train)
    if protocol.items is not None:
        validation, test = (_alternating(part)[: protocol.items] for part in (validation, test))
    return BehaviourQuestions(name, train[: protocol.train], validation, test)


def _alternating(choices: Sequence[Choice]) -> list[Choice]:
    """Return equally many choices per matching answer, as many as there are of the rarest."""
    by_answer: dict[str, list[Choice]] = {}
    for choice in choices:
        by_answer.setdefault(choice.matching, []).append(choice)
    return [choice for turn in zip(*by_answer.values(), strict=False) for choice in turn]
