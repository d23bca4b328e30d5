"""Tables that fit the terminal: columns that have no room follow in a table below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_LONGEST = 20  # characters of a cell before it may be wrapped
_BORDERS = 3  # characters that a column adds to its widest cell


@dataclass(frozen=True)
class Column:
    """A heading, the cells below it, and the side they are aligned to."""

    heading: str
    cells: Sequence[str]
    justify: Literal["left", "right"] = "right"

    @property
    def longest(self) -> int:
        """Return the width of the widest cell."""
        return max((cell_len(cell) for cell in self.cells), default=0)

    @property
    def wraps(self) -> bool:
        """Return whether cells are prose, which may be wrapped; numbers never are."""
        return self.justify == "left" and self.longest > _LONGEST

    @property
    def width(self) -> int:
        """Return the characters that the column needs; words of the heading are never cut."""
        words = max((cell_len(word) for word in self.heading.split()), default=1)
        return max(_LONGEST if self.wraps else self.longest, words)

    @property
    def natural(self) -> int:
        """Return the characters that the column takes where nothing is wrapped."""
        return max(self.longest, cell_len(self.heading))


def print_columns(console: Console, columns: Sequence[Column], title: str = "") -> None:
    """Print a table; where it is wider than the console, the first column begins each part.

    The title is above the first part. A single cell that is wider than the console is wrapped.
    """
    if title:
        console.print(Text(title, style="italic"))
    for part in split_columns(columns, console.width):
        roomy = sum(column.natural + _BORDERS for column in part) < console.width
        table = Table()
        for column in part:
            table.add_column(
                Text(column.heading),
                justify=column.justify,
                overflow="fold",
                max_width=None if roomy or column.wraps else column.width,
            )
        for row in zip(*(column.cells for column in part), strict=True):
            table.add_row(*map(Text, row))
        console.print(table)


def split_columns(columns: Sequence[Column], width: int) -> list[list[Column]]:
    """Return the columns in parts that fit `width` characters, the first column in each."""
    first, *others = columns
    parts = [[first]]
    used = start = 1 + first.width + _BORDERS
    for column in others:
        if len(parts[-1]) > 1 and used + column.width + _BORDERS > width:
            parts.append([first])
            used = start
        parts[-1].append(column)
        used += column.width + _BORDERS
    return parts
