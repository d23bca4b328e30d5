"""The result of an experiment: text, tables and figures, kept in a folder.

``outcome.json`` holds all of it, ``figures/`` each figure as a PNG with its data beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from faststeer.experiments.charts import draw
from faststeer.utils.files import write_whole
from faststeer.utils.terminal_tables import Column, print_columns

Cell = str | int | float | None
FILE, FIGURES, RECORDS = "outcome.json", "figures", "records"
FINDINGS = "Findings"  # the heading of the section with the answer, the first on a page
# What earlier versions called it.
_FINDINGS_BEFORE = ("Verdict", "The paper's questions, and what the numbers say")
_MOST_ROWS = 16  # of a table on a terminal


@dataclass(frozen=True)
class Table:
    """Rows under named columns; floats are shown with `digits` decimal places."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    digits: int = 3

    def format_cell(self, cell: Cell) -> str:
        """Return a cell as text; None is a dash."""
        if cell is None:
            return "–"
        return f"{cell:.{self.digits}f}" if isinstance(cell, float) else str(cell)


@dataclass(frozen=True)
class Figure:
    """A figure: its file's name, its kind (`charts.KINDS`), a caption, and its data."""

    name: str
    kind: str
    caption: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs separated by empty lines, tables, and figures."""

    heading: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()

    @property
    def paragraphs(self) -> list[str]:
        """The paragraphs of the text."""
        return [part.strip() for part in self.text.split("\n\n") if part.strip()]


@dataclass(frozen=True)
class Result:
    """Everything that one experiment found, and the facts that identify its inputs."""

    experiment: str
    title: str
    facts: Mapping[str, Any]
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        """The figures of all sections."""
        return [figure for section in self.sections for figure in section.figures]

    @property
    def findings(self) -> Section | None:
        """The section with the answer; None if the result has none."""
        named = (own for own in self.sections if own.heading in (FINDINGS, *_FINDINGS_BEFORE))
        return next(named, None)

    @property
    def evidence(self) -> list[Section]:
        """All other sections, in their order."""
        return [own for own in self.sections if own is not self.findings]

    def write(self, folder: Path) -> None:
        """Write ``outcome.json`` and, per figure, a PNG and the JSON of its data.

        Raises:
            OSError: the folder cannot be written.
            ValueError: a figure's data do not fit its kind, or a number is not finite.
        """
        self.draw(folder)
        for figure in self.figures:
            write_whole(folder / FIGURES / f"{figure.name}.json", _json(asdict(figure)))
        write_whole(folder / FILE, _json(asdict(self)))

    def draw(self, folder: Path) -> None:
        """Write the PNG of each figure; of a result that was read, in this version's style.

        Raises:
            OSError: the folder cannot be written.
            ValueError: a figure's data do not fit its kind.
        """
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        for figure in self.figures:
            png = draw(figure.kind, figure.data)
            write_whole(folder / FIGURES / f"{figure.name}.png", png)

    @classmethod
    def read(cls, folder: Path) -> Result:
        """Load what `write` wrote.

        Raises:
            FileNotFoundError: there is no ``outcome.json`` in the folder.
            ValueError: the file is not the result of an experiment.
        """
        path = folder / FILE
        try:
            content = json.loads(path.read_bytes())
            sections = [
                Section(
                    own["heading"],
                    own["text"],
                    [Table(**table) for table in own["tables"]],
                    [Figure(**figure) for figure in own["figures"]],
                )
                for own in content["sections"]
            ]
            return cls(content["experiment"], content["title"], content["facts"], sections)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{path}: not the result of an experiment ({error!r})") from error

    def show(self, console: Console) -> None:
        """Print text and short tables to a terminal; of a long table only its number of rows."""
        for section in self.sections:
            console.print(Text(f"\n{section.heading}", style="bold"))
            for paragraph in section.paragraphs:
                console.print(Text(paragraph))
            for table in section.tables:
                if len(table.rows) <= _MOST_ROWS:
                    _print(table, console)
                else:
                    console.print(Text(f"{table.title}: {len(table.rows)} rows in {FILE}"))


def _print(table: Table, console: Console) -> None:
    columns = []
    for number, heading in enumerate(table.columns):
        words = any(isinstance(row[number], str) for row in table.rows)
        cells = [table.format_cell(row[number]) for row in table.rows]
        columns.append(Column(heading, cells, "left" if words else "right"))
    print_columns(console, columns, table.title)


def _json(content: Any) -> bytes:
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"
