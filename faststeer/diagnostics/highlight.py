"""Projections as coloured text: for the terminal (rich), and as a self-contained HTML page.

Red is the direction of the vector, blue the opposite; white is the median over all tokens shown.
The colours are ColorBrewer's RdBu, which is safe for colour blindness.
"""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from faststeer.diagnostics.projections import TokenProjections
from faststeer.diagnostics.token_text import printable

_WHITE = (247, 247, 247)
_RED = (214, 96, 77)
_BLUE = (67, 147, 195)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 16px/1.9 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem;
  color: #111; background: #fff; }}
h1 {{ font-size: 1.2rem; }}
p.text {{ white-space: pre-wrap; overflow-wrap: anywhere; border-top: 1px solid #ddd;
  padding-top: 1rem; }}
p.text span {{ padding: 0.15em 0; border-radius: 2px; }}
.scale {{ display: flex; gap: 0.6rem; align-items: center; font-size: 0.85rem; }}
.bar {{ flex: 1; height: 0.9rem; border: 1px solid #ddd;
  background: linear-gradient(to right, {low}, {middle}, {high}); }}
</style>
</head>
<body>
<h1>{title}</h1>
<div class="scale"><span>{least}</span><div class="bar"></div><span>{most}</span></div>
<p class="scale">Projection of the residual stream on the direction at each token. White is the
median, {median}; beyond the ends of the scale the colour does not change. Hover over a token for
its value.</p>
{texts}
</body>
</html>
"""


@dataclass(frozen=True)
class Scale:
    """A colour scale: white at `middle`, full colour at a distance of `reach` and beyond."""

    middle: float
    reach: float

    @classmethod
    def of(cls, projections: Sequence[TokenProjections]) -> Scale:
        """Return one scale for all texts: the median, and the distance that covers 95 % of tokens.

        Not the largest distance: a text's first token is often far from all others, which would
        then be pale.
        """
        values = [value for text in projections for value in text.values]
        middle = statistics.median(values)
        distances = sorted(abs(value - middle) for value in values)
        return cls(middle, distances[int(0.95 * (len(distances) - 1))])

    def colour(self, value: float) -> str:
        """Return the colour of a projection, as ``#rrggbb``."""
        share = (value - self.middle) / self.reach if self.reach else 0.0
        share = max(-1.0, min(1.0, share))
        end = _RED if share > 0 else _BLUE
        mixed = (round(w + (e - w) * abs(share)) for w, e in zip(_WHITE, end, strict=True))
        return "#" + "".join(f"{part:02x}" for part in mixed)


def as_text(projections: Sequence[TokenProjections]) -> Text:
    """Return a legend and each text, coloured for rich; control characters become escapes."""
    scale = Scale.of(projections)
    found = Text()
    for share in (-1.0, -0.5, 0.0, 0.5, 1.0):
        value = scale.middle + share * scale.reach
        found.append(f" {value:+.2f} ", f"#111111 on {scale.colour(value)}")
    found.append("  (white: the median)\n")
    for text in projections:
        found.append("\n")
        for piece, value in zip(text.pieces, text.values, strict=True):
            found.append(printable(piece, "\n"), f"#111111 on {scale.colour(value)}")
        found.append("\n")
    return found


def as_html(projections: Sequence[TokenProjections], title: str) -> str:
    """Return an HTML page without scripts or external resources; texts and title are escaped."""
    scale = Scale.of(projections)
    ends = (scale.middle - scale.reach, scale.middle, scale.middle + scale.reach)
    low, middle, high = (scale.colour(value) for value in ends)
    least, median, most = (f"{value:+.2f}" for value in ends)
    texts = "\n".join(_paragraph(text, scale) for text in projections)
    return _PAGE.format(
        title=html.escape(printable(title)),
        low=low,
        middle=middle,
        high=high,
        least=least,
        median=median,
        most=most,
        texts=texts,
    )


def _paragraph(text: TokenProjections, scale: Scale) -> str:
    spans = []
    for piece, value in zip(text.pieces, text.values, strict=True):
        content = html.escape(printable(piece, "\n"))
        colour = scale.colour(value)
        spans.append(f'<span style="background:{colour}" title="{value:+.3f}">{content}</span>')
    return f'<p class="text">{"".join(spans)}</p>'
