"""Ranges of token positions that a file can hold: a name such as "last", or text such as "-3:".

A position counts a sequence's own tokens from 0, prompt and generated alike, without padding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?")


@dataclass(frozen=True)
class PositionRange:
    """Positions from `start` to before `stop`, each counted from the prompt's start or its end."""

    start: int | None = None
    stop: int | None = None
    start_from_end: bool = False
    stop_from_end: bool = False

    def __str__(self) -> str:
        """Return a name such as "last", or a range such as "-3:0", as files hold it."""
        for name, named in NAMED_POSITIONS.items():
            if named == self:
                return name
        return ":".join("" if end is None else str(end) for end in (self.start, self.stop))


# None is every token, padding included.
NAMED_POSITIONS: dict[str, PositionRange | None] = {
    "all": None,
    "prompt": PositionRange(None, 0, stop_from_end=True),
    "generated": PositionRange(0, None, start_from_end=True),
    "from_last_prompt": PositionRange(-1, None, start_from_end=True),
    "last": PositionRange(-1, 0, start_from_end=True, stop_from_end=True),
}


def position_range(positions: str | range | slice) -> PositionRange | None:
    """Return the range that `positions=` means; None for "all".

    Negative numbers count from the prompt's end, where 0 as the stop of a range is that end.

    Raises:
        ValueError: an unknown name, a step, or an empty or ambiguous range.
    """
    if isinstance(positions, str):
        if positions not in NAMED_POSITIONS:
            names = ", ".join(map(repr, NAMED_POSITIONS))
            raise ValueError(f"positions={positions!r} is unknown; expected one of {names}")
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
    for name, named in NAMED_POSITIONS.items():
        if named == wanted:
            return name
    assert wanted is not None  # that has a name
    text = ":".join("" if end is None else str(end) for end in (wanted.start, wanted.stop))
    try:
        return text if parse_positions(text) == wanted else None
    except ValueError:
        return None


def parse_positions(text: object) -> PositionRange | None:
    """Return the range that `positions_to_text` wrote; None for "all".

    Raises:
        ValueError: it is not such a text.
    """
    if isinstance(text, str) and text in NAMED_POSITIONS:
        return NAMED_POSITIONS[text]
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
