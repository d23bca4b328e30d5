"""What the terminal and the HTML page show of a comparison: scales, values and notes in words."""

from __future__ import annotations

from dataclasses import dataclass

from faststeer.diagnostics.colour_scale import Scale
from faststeer.diagnostics.comparison import ComparedText, Comparison, NextToken
from faststeer.diagnostics.token_text import printable, show_spaces

NAMES = {"kl": "KL", "projection": "projection", "change": "change"}


@dataclass(frozen=True)
class ColourView:
    """One colouring of a comparison: its scale, and the legend.

    `ticks` are values with their text, from the low end of the scale to the high one.
    """

    colour: str
    scale: Scale
    ticks: list[tuple[float, str]]
    meaning: str

    @classmethod
    def of(cls, comparison: Comparison, colour: str) -> ColourView:
        """Return one scale for all texts of a comparison.

        Raises:
            ValueError: an unknown colour, or "projection" without a vector.
        """
        if colour not in NAMES:
            raise ValueError(f"colour {colour!r} is unknown; expected one of {', '.join(NAMES)}")
        if colour not in comparison.colours:
            raise ValueError(
                "the colour 'projection' needs a vector, and the steering has not exactly one; "
                "give vector="
            )
        values = [value for text in comparison for value in text.values(colour)]
        if colour == "projection":
            scale = Scale.around_median(values)
            shares = (-1.0, -0.5, 0.0, 0.5, 1.0)
        else:
            scale = Scale.from_zero(values)
            shares = (0.0, 0.25, 0.5, 0.75, 1.0)
        at = [scale.middle + share * scale.reach for share in shares]
        ticks = [(value, in_words(colour, value)) for value in at]
        return cls(colour, scale, ticks, _meaning(comparison, colour))


def in_words(colour: str, value: float) -> str:
    """Return a value with its precision: "0.123", "+1.23", "12.3 %"."""
    if colour == "kl":
        return f"{value:.3f}"
    return f"{value:+.2f}" if colour == "projection" else f"{value:.1%}".replace("%", " %")


def values_in_words(text: ComparedText, token: int) -> str:
    """Return all values of a token, with units."""
    found = [f"KL {in_words('kl', text.kl[token])} nats"]
    if text.steered_projection:
        before, after = (
            in_words("projection", values[token])
            for values in (text.unsteered_projection, text.steered_projection)
        )
        found.append(f"projection {before} unsteered, {after} steered")
    found.append(f"change {in_words('change', text.change[token])}")
    return "; ".join(found)


def token_in_words(next_token: NextToken) -> tuple[str, str]:
    """Return a likely token's text, with visible spaces, and its probability."""
    return show_spaces(next_token.text), in_words("change", next_token.probability)


def shown_piece(piece: str) -> str:
    """Return a piece with escapes for unprintable characters, and a mark before line breaks."""
    return printable(piece, "\n").replace("\n", "↵\n")


def parting_in_words(comparison: Comparison) -> str | None:
    """Return where the answers part; None without answers."""
    if comparison.answers is None:
        return None
    at = comparison.parting
    if at is None:
        return f"Both answers are the same {len(comparison.answers[0].ids)} tokens."
    unsteered, steered = (_token_at(answer, at) for answer in comparison.answers)
    return (
        f"The answers part at token {at + 1}: the unsteered one {unsteered}, the steered one "
        f"{steered}."
    )


def _token_at(answer: ComparedText, at: int) -> str:
    if at == len(answer.ids):
        return "ends"
    piece = show_spaces(answer.pieces[at])
    return f"has “{piece}”" if piece else "has a part of a character"


def _meaning(comparison: Comparison, colour: str) -> str:
    """Return what a colour shows, where, and in which unit."""
    if colour == "kl":
        return "KL(unsteered || steered) of the distributions of the next token, in nats."
    if colour == "change":
        return (
            "Norm of what steering changed in the residual stream, as a share of the unsteered "
            f"norm, at {comparison.changed_at.kind} of layer {comparison.changed_at.layer}."
        )
    site = comparison.projected_at
    assert site is not None
    assert comparison.vector is not None
    return (
        f"Projection of the steered residual stream on the unit direction of "
        f"{printable(comparison.vector)}, at {site.kind} of layer {site.layer}, in the units of "
        "the residual stream; white is the median."
    )
