"""Results of experiments as one HTML page that loads nothing and runs nothing.

Contents come first, then what was found, then the figures with their tables folded below them.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from faststeer.experiments.result import FIGURES, FILE, Figure, Result

_TEMPLATE = "report.html.jinja"
_MOST_ROWS = 8  # of a table that is not folded
_MOST_PARAGRAPHS = 3  # of a text that is not folded


def results_in(folder: Path) -> dict[Path, Result]:
    """Load the results in `folder` and in the folders directly below it, by folder.

    The shortest findings come first, and results without findings last.

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
    found = {place: Result.read(place) for place in places}
    return dict(sorted(found.items(), key=lambda one: _length(one[1])))


def as_page(results: Mapping[Path, Result]) -> str:
    """Render all results with their tables and figures; every text is escaped.

    Raises:
        FileNotFoundError: a figure's PNG is missing.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    source = (resources.files(__package__) / _TEMPLATE).read_text(encoding="utf-8")
    page: str = environment.from_string(source).render(
        results=results,
        png=_png,
        facts=_facts,
        most_rows=_MOST_ROWS,
        most_paragraphs=_MOST_PARAGRAPHS,
    )
    return page


def _length(result: Result) -> float:
    return math.inf if result.findings is None else len(result.findings.text)


def _png(folder: Path, figure: Figure) -> str:
    return b64encode((folder / FIGURES / f"{figure.name}.png").read_bytes()).decode()


def _facts(result: Result) -> str:
    return json.dumps(result.facts, indent=1, ensure_ascii=False)
