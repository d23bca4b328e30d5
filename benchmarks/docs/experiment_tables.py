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


def questions_table(result: dict[str, Any]) -> str:
    """Return what a vector changes in the answers to every question set, a line each."""
    lines = [
        f"{result['model']['name']} in {result['dtype']}, layer {result['layer']}, coefficient "
        f"±{result['coefficient']:g}, vectors of {result['train']} questions, equally many of "
        "which each answer matches; all questions of the test parts, 95 % bootstrap intervals over "
        "questions:",
        "",
        "| asked | behaviour | questions | usual answer | matching answers, subtracted / "
        "unsteered / added | probability, subtracted / unsteered / added | added − subtracted |",
        "|---|---|---:|---:|---|---|---|",
    ]
    for own in result["sets"]:
        settings = [own[name] for name in ("subtracted", "unsteered", "added")]
        low, high = own["difference_interval"]
        cells = [
            {"plain": "plain", "chat": "in its chat template"}[own["form"]],
            own["set"].replace("_", " "),
            str(own["questions"]),
            f"{own['unsteered']['usual_answer']:.0%}",
            " / ".join(f"{scores['score']:.2f}" for scores in settings),
            " / ".join(f"{scores['probability']:.3f}" for scores in settings),
            f"{own['difference']:+.3f} [{low:+.3f}, {high:+.3f}]",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
