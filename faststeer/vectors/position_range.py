"""Ranges of token positions that a file can hold: "last", "first(5)", or text such as "-3:".

A position counts a sequence's own tokens from 0, prompt and generated alike, without padding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?")
_FIRST = re.compile(r"first\(([1-9][0-9]{0,8})\)")


@dataclass(frozen=True)
class PositionRange:
    """Positions from `start` to before `stop`, each counted from the prompt's start or its end."""

    start: int | None = None
    stop: int | None = None
    start_from_end: bool = False
    stop_from_end: bool = False

    def __str__(self) -> str:
        """Return "last" or another name, "first(5)", or a range such as "-3:0", as files do."""
        for name, named in NAMED_POSITIONS.items():
            if named == self:
                return name
        if self.stop is not None and self.stop > 0 and self == first_generated(self.stop):
            return f"first({self.stop})"
        return ":".join("" if end is None else str(end) for end in (self.start, self.stop))


def first_generated(count: int) -> PositionRange:
    """Return the range of the first `count` generated tokens."""
    return PositionRange(0, count, start_from_end=True, stop_from_end=True)


def is_first(text: str) -> bool:
    """Return whether a text is that of the first generated tokens, "first(5)"."""
    return _FIRST.fullmatch(text) is not None


# None is every token, padding included.
NAMED_POSITIONS: dict[str, PositionRange | None] = {
    "all": None,
    "prompt": PositionRange(None, 0, stop_from_end=True),
    "generated": PositionRange(0, None, start_from_end=True),
    "from_last_prompt": PositionRange(-1, None, start_from_end=True),
    "last": PositionRange(-1, 0, start_from_end=True, stop_from_end=True),
}


# Of a chat template, so that only its tokenizer knows how many tokens these are.
POST_INSTRUCTION = "post_instruction"


def position_range(positions: str | range | slice) -> PositionRange | None:
    """Return the range that `positions=` means; None for "all".

    Negative numbers count from the prompt's end, where 0 as the stop of a range is that end.

    Raises:
        ValueError: an unknown name, a step, or an empty or ambiguous range.
    """
    if isinstance(positions, str):
        if positions not in NAMED_POSITIONS:
            if counted := _FIRST.fullmatch(positions):
                return first_generated(int(counted[1]))
            if positions == POST_INSTRUCTION:
                raise ValueError(
                    f"positions={positions!r} depends on the chat template; give "
                    "faststeer.data.post_instruction(tokenizer)"
                )
            names = ", ".join(map(repr, NAMED_POSITIONS))
            raise ValueError(
                f"positions={positions!r} is unknown; expected one of {names}, or the first "
                "generated tokens, such as 'first(8)'"
            )
        return NAMED_POSITIONS[positions]
    if positions.step not in (None, 1):
        raise ValueError(f"positions={positions} has a step; give a function instead")
    if isinstance(positions, range):
        return _of_range(positions)
    start, stop = positions.start, positions.stop
    return PositionRange(start, stop, (start or 0) < 0, (stop or 0) < 0)


def positions_to_text(positions: str | range | slice) -> str | None:
    """Return the text that metadata hold of `positions`: a name, or a range such as "-3:0".

    Returns None for a slice that no text can hold, such as slice(-3, 0).

    Raises:
        ValueError: as `position_range`.
    """
    wanted = position_range(positions)
    text = "all" if wanted is None else str(wanted)
    try:
        return text if parse_positions(text) == wanted else None
    except ValueError:
        return None


def parse_positions(text: object) -> PositionRange | None:
    """Return the range that `positions_to_text` wrote; None for "all".

    Raises:
        ValueError: it is not such a text.
    """
    if isinstance(text, str) and (text in NAMED_POSITIONS or _FIRST.fullmatch(text)):
        return position_range(text)
    ends = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if ends is None:
        raise ValueError(f"positions {text!r} are unknown")
    start, stop = (None if end is None else int(end) for end in ends.groups())
    if start is None or stop is None or (start >= 0 > stop) or (start < 0 < stop):
        return position_range(slice(start, stop))
    # -3:0 is up to the prompt's end, which a slice cannot state
    return position_range(range(start, stop))


def _of_range(numbers: range) -> PositionRange:
    if not numbers:
        raise ValueError(
            f"positions={numbers} is empty; slice({numbers.start}, {numbers.stop}) may be meant"
        )
    from_end = numbers.start < 0
    if from_end and numbers.stop > 0:
        raise ValueError(
            f"positions={numbers} extends past the prompt's end, where 0 is the first token; "
            f"slice({numbers.start}, None) is everything from there"
        )
    return PositionRange(numbers.start, numbers.stop, from_end, from_end)
