"""A colour scale for the values of tokens: blue, white and red, safe for colour blindness.

The colours are ColorBrewer's RdBu. All of them are light enough for text in `INK`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

INK = "#111111"
_WHITE = (247, 247, 247)
_RED = (214, 96, 77)
_BLUE = (67, 147, 195)
_NOT_FINITE = "#bdbdbd"


@dataclass(frozen=True)
class Scale:
    """A colour scale: white at `middle`, full colour at a distance of `reach` and beyond."""

    middle: float
    reach: float

    @classmethod
    def around_median(cls, values: Iterable[float]) -> Scale:
        """Return the scale whose white is the median, and which 95 % of the values do not exceed.

        Not the largest distance: a text's first token is often far from all others, which would
        then be pale.
        """
        finite = [value for value in values if math.isfinite(value)]
        middle = statistics.median(finite) if finite else 0.0
        return cls(middle, _reach(abs(value - middle) for value in finite))

    @classmethod
    def from_zero(cls, values: Iterable[float]) -> Scale:
        """Return the scale of values of 0 and more: white at 0, red where 95 % do not exceed."""
        return cls(0.0, _reach(value for value in values if math.isfinite(value)))

    def colour(self, value: float) -> str:
        """Return the colour of a value, as ``#rrggbb``; grey where it is not finite."""
        if not math.isfinite(value):
            return _NOT_FINITE
        share = (value - self.middle) / self.reach if self.reach else 0.0
        share = max(-1.0, min(1.0, share))
        end = _RED if share > 0 else _BLUE
        mixed = (round(w + (e - w) * abs(share)) for w, e in zip(_WHITE, end, strict=True))
        return "#" + "".join(f"{part:02x}" for part in mixed)


def _reach(distances: Iterable[float]) -> float:
    """Return the distance that 95 % do not exceed; 0 where there are none."""
    ordered = sorted(distances)
    return ordered[int(0.95 * (len(ordered) - 1))] if ordered else 0.0
