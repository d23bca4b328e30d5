"""Text that matplotlib's font can draw."""

from __future__ import annotations

from functools import cache

from faststeer.diagnostics.inspection import Inspection
from faststeer.diagnostics.token_text import printable


def heading(inspection: Inspection, title: str, whose: bool = True) -> str:
    """Return a figure's title: what it shows, of which vector, and at which site."""
    owner = f" of {drawable(inspection.name)}" if whose else ""
    return f"{title[0].upper()}{title[1:]}{owner} at {inspection.site}"


def drawable(text: str) -> str:
    """Return the text with escapes for characters that matplotlib's font lacks."""
    available = _font_characters()
    return "".join(
        letter if ord(letter) in available else ascii(letter)[1:-1] for letter in printable(text)
    )


@cache
def _font_characters() -> frozenset[int]:
    from matplotlib import font_manager, ft2font

    return frozenset(ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())
