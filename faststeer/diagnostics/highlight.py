"""Projections as coloured text: for the terminal (rich), and as a self-contained HTML page.

Red is the direction of the vector, blue the opposite; white is the median over all tokens shown.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from rich.text import Text

from faststeer.diagnostics.colour_scale import INK, Scale
from faststeer.diagnostics.html_page import html_page
from faststeer.diagnostics.projections import TokenProjections
from faststeer.diagnostics.token_text import printable

_STYLE = """body { max-width: 50rem; margin: 2rem auto; line-height: 1.9; }
p.text { white-space: pre-wrap; overflow-wrap: anywhere; border-top: 1px solid #ddd;
  padding-top: 1rem; }
p.text span { padding: 0.15em 0; border-radius: 2px; }
.scale { display: flex; gap: 0.6rem; align-items: center; font-size: 0.85rem; }
.bar { flex: 1; height: 0.9rem; border: 1px solid #ddd; }
"""


def as_text(projections: Sequence[TokenProjections]) -> Text:
    """Return a legend and each text, coloured for rich; control characters become escapes."""
    scale = _scale(projections)
    found = Text()
    for share in (-1.0, -0.5, 0.0, 0.5, 1.0):
        value = scale.middle + share * scale.reach
        found.append(f" {value:+.2f} ", f"{INK} on {scale.colour(value)}")
    found.append("  (white: the median)\n")
    for text in projections:
        found.append("\n")
        for piece, value in zip(text.pieces, text.values, strict=True):
            found.append(printable(piece, "\n"), f"{INK} on {scale.colour(value)}")
        found.append("\n")
    return found


def as_html(projections: Sequence[TokenProjections], title: str) -> str:
    """Return an HTML page without scripts or external resources; texts and title are escaped."""
    scale = _scale(projections)
    ends = (scale.middle - scale.reach, scale.middle, scale.middle + scale.reach)
    low, middle, high = (scale.colour(value) for value in ends)
    least, median, most = (f"{value:+.2f}" for value in ends)
    texts = "\n".join(_paragraph(text, scale) for text in projections)
    legend = f"""<div class="scale"><span>{least}</span>
<div class="bar" style="background:linear-gradient(to right, {low}, {middle}, {high})"></div>
<span>{most}</span></div>
<p class="scale">Projection of the residual stream on the direction at each token. White is the
median, {median}; beyond the ends of the scale the colour does not change. Hover over a token for
its value.</p>"""
    return html_page(title, _STYLE, f"{legend}\n{texts}")


def _scale(projections: Sequence[TokenProjections]) -> Scale:
    """Return one scale for all texts."""
    return Scale.around_median(value for text in projections for value in text.values)


def _paragraph(text: TokenProjections, scale: Scale) -> str:
    spans = []
    for piece, value in zip(text.pieces, text.values, strict=True):
        content = html.escape(printable(piece, "\n"))
        colour = scale.colour(value)
        spans.append(f'<span style="background:{colour}" title="{value:+.3f}">{content}</span>')
    return f'<p class="text">{"".join(spans)}</p>'
