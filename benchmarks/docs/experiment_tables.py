"""Tables of the committed experiments, as Markdown for the pages of docs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Block = Callable[[dict[str, Any]], str]


def table(title: str) -> Block:
    """Return the block of the only table of an outcome whose title begins with `title`."""

    def made(outcome: dict[str, Any]) -> str:
        tables = [own for section in outcome["sections"] for own in section["tables"]]
        [chosen] = [own for own in tables if own["title"].startswith(title)]
        digits = chosen["digits"]
        words = [
            any(isinstance(row[number], str) for row in chosen["rows"])
            for number in range(len(chosen["columns"]))
        ]
        lines = [
            f"{chosen['title']}:",
            "",
            f"| {' | '.join(chosen['columns'])} |",
            f"|{'|'.join('---' if left else '---:' for left in words)}|",
            *(f"| {' | '.join(_shown(cell, digits) for cell in row)} |" for row in chosen["rows"]),
        ]
        return "\n".join(lines)

    return made


def _shown(cell: Any, digits: int) -> str:
    if cell is None:
        return "–"
    text = f"{cell:.{digits}f}" if isinstance(cell, float) else str(cell)
    return text.replace("|", "\\|").replace("\n", " ")
