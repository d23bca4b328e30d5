"""The questions of each behaviour, parted: to make a vector from, to choose by, to test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from faststeer.data import behaviour
from faststeer.data.questions import Choice, part_of, read_choices
from faststeer.evaluate.provenance import data_hash
from faststeer.experiments.several.protocol import LAYERS_AT_ONCE, Protocol


@dataclass(frozen=True)
class Asked:
    """One behaviour's questions; none is in two parts."""

    name: str
    train: list[Choice]
    validation: list[Choice]
    test: list[Choice]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What the vector is made from."""
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
) -> list[Asked]:
    """The parts of the behaviours' questions, in the order of the names.

    Where not all questions are asked, the two answers match in turn: of a few that come as they
    may, one answer matches more often, and to say that more often would look like a behaviour.

    Raises:
        FileNotFoundError: a file is not there; the message says how to get it.
        ValueError: an unknown behaviour or one that is named twice, fewer than two, a broken file,
            or too few questions in it.
    """
    unknown = [name for name in names if name not in LAYERS_AT_ONCE]
    if unknown:
        raise ValueError(
            f"behaviour {unknown[0]!r} is unknown; there are {', '.join(LAYERS_AT_ONCE)}"
        )
    if len(set(names)) < max(2, len(names)):
        raise ValueError(
            f"behaviours {', '.join(names)}: expected at least two, each once; what is measured is "
            "how they go together"
        )
    return [_parted(name, folder, protocol, seed) for name in names]


def _parted(name: str, folder: str | PathLike[str] | None, protocol: Protocol, seed: int) -> Asked:
    path = behaviour(name, folder).path
    choices = read_choices(path)
    try:
        train, validation, test = (
            part_of(choices, part, seed) for part in ("train", "validation", "test")
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if protocol.balanced:
        train = _in_turn(train)
    if protocol.items is not None:
        validation, test = (_in_turn(part)[: protocol.items] for part in (validation, test))
    return Asked(name, train[: protocol.train], validation, test)


def _in_turn(choices: Sequence[Choice]) -> list[Choice]:
    """As many of each matching answer, one after the other, as there are of the rarest."""
    by_answer: dict[str, list[Choice]] = {}
    for choice in choices:
        by_answer.setdefault(choice.matching, []).append(choice)
    return [choice for turn in zip(*by_answer.values(), strict=False) for choice in turn]
