"""A comparison as coloured text for the terminal (rich)."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from faststeer.diagnostics.colour_scale import INK
from faststeer.diagnostics.comparison import ComparedText, Comparison
from faststeer.diagnostics.comparison_views import (
    ColourView,
    parting_in_words,
    shown_piece,
    token_in_words,
)
from faststeer.diagnostics.token_text import printable


def comparison_as_text(comparison: Comparison, colour: str = "kl") -> Group:
    """Return legend, coloured texts, and where the answers part, for `rich.print`.

    Control characters become escapes. The token at which the answers part is bold and underlined.

    Args:
        comparison: the result of `compare`.
        colour: "kl", "projection" or "change".

    Raises:
        ValueError: an unknown colour, or "projection" without a vector.
    """
    view = ColourView.of(comparison, colour)
    found = Text(f"{printable(comparison.steering)}\n")
    for value, shown in view.ticks:
        found.append(f" {shown} ", f"{INK} on {view.scale.colour(value)}")
    found.append(f"\n{view.meaning}\n")
    for text in comparison:
        found.append(f"\n{text.name}\n", "bold")
        found.append(_coloured(comparison, text, view))
        found.append("\n")
    parting = parting_in_words(comparison)
    if parting is None:
        return Group(found)
    found.append(f"\n{parting}")
    return Group(found, *_likeliest(comparison))


def _coloured(comparison: Comparison, text: ComparedText, view: ColourView) -> Text:
    found = Text()
    for n, (piece, value) in enumerate(zip(text.pieces, text.values(view.colour), strict=True)):
        marked = "bold underline " if comparison.parts_at(text, n) else ""
        found.append(shown_piece(piece), f"{marked}{INK} on {view.scale.colour(value)}")
    return found


def _likeliest(comparison: Comparison) -> list[Table]:
    """Return a table of the likeliest tokens at the parting; nothing where there is none."""
    both = comparison.next_at_parting
    if both is None:
        return []
    table = Table(title=Text("likeliest tokens there"), title_justify="left", min_width=24)
    for side in ("unsteered", "steered"):
        table.add_column(side, overflow="fold")
        table.add_column("", justify="right", no_wrap=True)
    for row in zip(*both, strict=True):
        table.add_row(*(Text(cell) for token in row for cell in token_in_words(token)))
    return [table]
