"""Outcomes of experiments as one HTML page that loads nothing and runs nothing."""

from __future__ import annotations

import html
import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faststeer.experiments.outcome import FIGURES, FILE, Figure, Outcome, Section, Table

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #111; background: #fff; }}
nav a {{ margin-right: 1.5rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-size: 0.85rem; display: block;
  overflow-x: auto; }}
caption {{ text-align: left; font-weight: 600; padding: 0.3rem 0; }}
th, td {{ border-bottom: 1px solid #ddd; padding: 0.2rem 0.7rem; text-align: left; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
figure {{ margin: 1.5rem 0; }}
figure img {{ max-width: 100%; }}
figcaption, details {{ color: #444; font-size: 0.9rem; }}
pre {{ overflow-x: auto; }}
</style>
</head>
<body>
<nav>{links}</nav>
{outcomes}
</body>
</html>
"""


def outcomes_in(folder: Path) -> dict[Path, Outcome]:
    """By its folder, each outcome in `folder` and in the folders right below it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file is broken.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; expected the --output of `faststeer experiment`"
        )
    places = [place for place in (folder, *sorted(folder.iterdir())) if (place / FILE).is_file()]
    if not places:
        raise FileNotFoundError(
            f"{folder}: no {FILE} here or in a folder right below; `faststeer experiment` makes it"
        )
    return {place: Outcome.read(place) for place in places}


def as_page(outcomes: Mapping[Path, Outcome]) -> str:
    """All outcomes with their tables and pictures; every text is escaped.

    Raises:
        FileNotFoundError: a picture is missing.
    """
    numbered = list(enumerate(outcomes.items(), 1))
    return _PAGE.format(
        title=html.escape(" · ".join(own.title for own in outcomes.values())),
        links=" ".join(f'<a href="#e{n}">{html.escape(own.title)}</a>' for n, (_, own) in numbered),
        outcomes="\n".join(_outcome(n, place, own) for n, (place, own) in numbered),
    )


def _outcome(number: int, place: Path, outcome: Outcome) -> str:
    parts = [f'<h1 id="e{number}">{html.escape(outcome.title)}</h1>']
    parts += [_section(place, section) for section in outcome.sections]
    facts = json.dumps(outcome.facts, indent=1, ensure_ascii=False)
    told = f"<pre>{html.escape(facts)}</pre>"
    parts.append(f"<details><summary>What it was made with</summary>{told}</details>")
    return "\n".join(parts)


def _section(place: Path, section: Section) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.paragraphs]
    parts += [_table(table) for table in section.tables]
    parts += [_figure(place, figure) for figure in section.figures]
    return "\n".join(parts)


def _table(table: Table) -> str:
    heads = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(_cell(cell, table) for cell in row) + "</tr>" for row in table.rows
    )
    caption = html.escape(table.title)
    return f"<table>\n<caption>{caption}</caption>\n<tr>{heads}</tr>\n{rows}\n</table>"


def _cell(cell: Any, table: Table) -> str:
    kind = "" if isinstance(cell, str) else ' class="number"'
    return f"<td{kind}>{html.escape(table.shown(cell))}</td>"


def _figure(place: Path, figure: Figure) -> str:
    picture = b64encode((place / FIGURES / f"{figure.name}.png").read_bytes()).decode()
    caption = html.escape(figure.caption)
    source = f"data:image/png;base64,{picture}"
    return (
        f'<figure><img alt="{caption}" src="{source}">\n<figcaption>{caption}</figcaption></figure>'
    )
