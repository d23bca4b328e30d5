"""Tables on the terminal are never wider than it, and no cell is cut."""

from __future__ import annotations

import re

import pytest
from rich.console import Console

from faststeer.utils.terminal_tables import Column, print_columns, split_columns

LAYERS = Column("layer", [str(n) for n in range(3)])
NUMBERS = [Column(f"the cosine of {n}", ["-0.123"] * 3) for n in range(20)]
INTERVALS = [Column(f"trait {n}", ["0.888 [0.82, 0.95]"] * 3, "left") for n in range(8)]
PROSE = [Column(name, ["one word after another " * 9] * 3, "left") for name in ("question", "text")]


def shown(columns: list[Column], width: int, title: str = "") -> list[str]:
    console = Console(width=width)
    with console.capture() as output:
        print_columns(console, columns, title)
    return output.get().splitlines()


@pytest.mark.parametrize("columns", [NUMBERS, INTERVALS, PROSE, [*NUMBERS, *INTERVALS, *PROSE]])
def test_a_wide_table_follows_in_parts_with_every_cell_whole(columns: list[Column]) -> None:
    lines = shown([LAYERS, *columns], 80, "a title")
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for column in columns:
        if not column.wraps:
            assert all(any(cell in line for line in lines) for cell in column.cells)
    whole = sum(text.count(cell) for cell in ("-0.123", "0.888 [0.82, 0.95]"))
    assert whole == sum(len(own.cells) for own in columns if not own.wraps)
    assert sum(line.startswith("│     0 │") for line in lines) == len(
        split_columns([LAYERS, *columns], 80)
    )
    assert "a title" in lines[0]


def test_words_of_prose_and_of_headings_are_whole() -> None:
    lines = shown([LAYERS, *PROSE, *NUMBERS], 80)
    words = re.findall(r"\w+", "\n".join(line for line in lines if "│" in line))
    assert set(words) <= {"0", "1", "2", "one", "word", "after", "another", "123"}
    heads = re.findall(r"\w+", "\n".join(line for line in lines if "┃" in line))
    assert {"layer", "question", "text", "cosine"} <= set(heads)


def test_a_table_that_fits_is_one() -> None:
    columns = [LAYERS, *NUMBERS[:3]]
    assert split_columns(columns, 80) == [columns]
    assert len(split_columns(columns, 24)) == 3
