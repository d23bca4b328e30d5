"""The questions of each behaviour: to make a vector from, to choose settings on, to test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

from faststeer.data import behaviour
from faststeer.data.chat import ChatFormat
from faststeer.data.questions import Choice, choices_in_chat, part_of, read_choices
from faststeer.evaluate.provenance import data_hash
from faststeer.experiments.several_behaviours.protocol import LAYERS_AT_ONCE, Protocol


@dataclass(frozen=True)
class BehaviourQuestions:
    """One behaviour's questions in three parts that share none.

    `template` is the digest of the chat format that they are in, if any.
    """

    name: str
    train: list[Choice]
    validation: list[Choice]
    test: list[Choice]
    template: str | None = None

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


def in_chat(questions: Sequence[BehaviourQuestions], chat: ChatFormat) -> list[BehaviourQuestions]:
    """Return the questions in a chat format. Raises ValueError as `chat_prompt`."""
    return [
        replace(
            own,
            train=choices_in_chat(own.train, chat),
            validation=choices_in_chat(own.validation, chat),
            test=choices_in_chat(own.test, chat),
            template=chat.digest,
        )
        for own in questions
    ]


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
