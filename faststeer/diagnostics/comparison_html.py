"""A comparison as HTML: a fragment with its own scoped style, and a page around it.

Both load and run nothing: the switch between the colours is made of radio buttons and CSS, so that
it also works where scripts of an inserted fragment do not run.
"""

from __future__ import annotations

import hashlib
from html import escape
from importlib import resources

from faststeer.diagnostics.comparison import ComparedText, Comparison, NextToken
from faststeer.diagnostics.comparison_views import (
    NAMES,
    ColourView,
    parting_in_words,
    shown_piece,
    token_in_words,
    values_in_words,
)
from faststeer.diagnostics.html_page import html_page
from faststeer.diagnostics.token_text import printable

# Below the last text there is room for what a token shows under the pointer.
_STYLE = "body { max-width: 70rem; margin: 1.5rem auto 16rem; }\n"


def comparison_as_html(comparison: Comparison, title: str, colour: str = "kl") -> str:
    """Return an HTML page without scripts or external resources; texts and title are escaped.

    Args:
        comparison: the result of `compare`.
        title: of the page, and its heading.
        colour: what is shown first: "kl", "projection" or "change".

    Raises:
        ValueError: an unknown colour, or "projection" without a vector.
    """
    fragment = comparison_fragment(comparison, colour)
    return html_page(title, _STYLE, fragment)


def comparison_fragment(comparison: Comparison, colour: str = "kl") -> str:
    """Return the comparison as one HTML element with its own style, for a page of any other code.

    Every token is coloured, and shows its values and the five likeliest next tokens of both models
    under the pointer or the keyboard's focus; the token at which the answers part is outlined.

    Args:
        comparison: the result of `compare`.
        colour: what is shown first: "kl", "projection" or "change".

    Raises:
        ValueError: an unknown colour, or "projection" without a vector.
    """
    first = ColourView.of(comparison, colour).colour
    views = [ColourView.of(comparison, name) for name in comparison.colours]
    sections = [_section(comparison, text, views) for text in comparison]
    if comparison.answers is not None:
        prompt, unsteered, steered, *others = sections
        answers = f'<div class="fs-answers">{unsteered}{steered}</div>'
        sections = [prompt, answers, *others]
    content = "\n".join(sections)
    # Radio buttons of one name exclude each other, also those of another fragment on the page.
    group = f"fs-{hashlib.sha256(f'{first}{content}'.encode()).hexdigest()[:12]}"
    style = (resources.files(__package__) / "comparison.css").read_text(encoding="utf-8")
    parting = parting_in_words(comparison)
    note = "" if parting is None else f'<p class="fs-note">{escape(parting)}</p>\n'
    return (
        f'<div class="fs-compare">\n<style>\n{style}</style>\n'
        f'<p class="fs-note">{escape(printable(comparison.steering))}</p>\n'
        f"{_switch(views, first, group)}\n"
        f"{''.join(map(_legend, views))}{note}{content}\n</div>"
    )


def _switch(views: list[ColourView], first: str, group: str) -> str:
    buttons = "".join(
        f'<label><input type="radio" name="{group}" value="{view.colour}"'
        f"{' checked' if view.colour == first else ''}> {NAMES[view.colour]}</label>"
        for view in views
    )
    return (
        f'<div class="fs-switch" role="radiogroup" aria-label="Colour"><b>Colour</b>{buttons}</div>'
    )


def _legend(view: ColourView) -> str:
    colours = ", ".join(view.scale.colour(value) for value, _ in view.ticks)
    shown = "".join(f"<span>{escape(text)}</span>" for _, text in view.ticks[::2])
    return (
        f'<div class="fs-legend fs-{view.colour}">'
        f'<div class="fs-bar" style="background:linear-gradient(to right, {colours})"></div>'
        f'<div class="fs-ticks">{shown}</div><p class="fs-note">{escape(view.meaning)} Beyond the '
        "end of the scale the colour does not change.</p></div>\n"
    )


def _section(comparison: Comparison, text: ComparedText, views: list[ColourView]) -> str:
    tokens = "".join(_token(comparison, text, n, views) for n in range(len(text.ids)))
    name = escape(text.name)
    return (
        f'<section aria-label="{name}"><h2 class="fs-name">{name}</h2>'
        f'<div class="fs-text">{tokens}</div></section>'
    )


def _token(comparison: Comparison, text: ComparedText, n: int, views: list[ColourView]) -> str:
    colours = ";".join(
        f"--fs-{view.colour}:{view.scale.colour(text.values(view.colour)[n])}" for view in views
    )
    values, classes = values_in_words(text, n), "fs-token"
    if comparison.parts_at(text, n):
        values, classes = f"The answers part here. {values}", f"{classes} fs-parting"
    piece = escape(shown_piece(text.pieces[n]))
    if not piece:
        values, classes = f"Part of a character. {values}", f"{classes} fs-part"
    return (
        f'<span class="{classes}" tabindex="0" style="{colours}" title="{escape(values)}">{piece}'
        f'<span class="fs-tip"><span class="fs-values">{escape(values)}</span>'
        f"{_likeliest('unsteered', text.unsteered_next[n])}"
        f"{_likeliest('steered', text.steered_next[n])}</span></span>"
    )


def _likeliest(side: str, tokens: list[NextToken]) -> str:
    rows = "".join(
        f"<span>{escape(shown)}</span><span>{probability}</span>"
        for shown, probability in map(token_in_words, tokens)
    )
    return f'<span class="fs-next"><b>next, {side}</b>{rows}</span>'
