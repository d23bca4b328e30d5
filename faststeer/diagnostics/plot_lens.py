"""The figure of a logit lens: two tables of tokens, coloured by how far their logits move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from faststeer.diagnostics.inspection import Inspection
from faststeer.diagnostics.plot_text import drawable, heading
from faststeer.diagnostics.token_text import show_spaces
from faststeer.utils.plot_labels import fit_text, settle
from faststeer.utils.plot_style import SMALL, diverging_map, ink_on, new_figure

_STRONGEST = 10.0  # standard deviations in full colour: the usual 4 to 6 are pale
_ROW = 0.2  # inches

Side = Sequence[tuple[int, str, float]]  # of a lens: token id, text, z


def lens_figure(inspection: Inspection) -> Any:
    """Return the promoted tokens above the suppressed ones, a row per layer.

    A token that is longer than its cell is cut with …; the CSV file beside the figure has it whole.
    """
    lenses = {n: own.lens for n, own in inspection.layers.items() if own.lens is not None}
    sides: dict[str, Mapping[int, Side]] = {
        "promoted": {n: lens.promoted for n, lens in lenses.items()},
        "suppressed": {n: lens.suppressed for n, lens in lenses.items()},
    }
    figure = new_figure(
        heading(inspection, "logit lens"),
        2 * (_ROW * len(lenses) + 0.45) + 0.7,
        "␣: a space; …: the token is longer. Colour: the logit in standard deviations from the "
        "vocabulary's mean.",
    )
    panels = figure.subplots(2, 1)
    image = None
    for axes, (name, rows) in zip(panels, sides.items(), strict=True):
        image = _cells(axes, rows)
        axes.set_title(f"{name}, strongest first")
        axes.set_ylabel("layer")
    bar = figure.colorbar(image, ax=panels, orientation="horizontal", aspect=50, pad=0.02)
    bar.set_label("standard deviations")
    settle(figure)
    for axes in panels:
        _fit(axes)
    return figure


def _cells(axes: Any, rows: Mapping[int, Side]) -> Any:
    colours = diverging_map()
    values = [[z for _, _, z in row] for row in rows.values()]
    image = axes.imshow(values, cmap=colours, vmin=-_STRONGEST, vmax=_STRONGEST, aspect="auto")
    for y, row in enumerate(rows.values()):
        for x, (_, text, z) in enumerate(row):
            ink = ink_on(colours((z / _STRONGEST + 1) / 2))
            shown = drawable(show_spaces(text))
            # At the left of its cell, and cut to fit it after the layout, which ignores it.
            at = {"va": "center", "fontsize": SMALL, "in_layout": False, "parse_math": False}
            axes.text(x - 0.46, y, shown, color=ink, **at)
    axes.set_xticks([])
    axes.set_yticks(range(len(rows)), list(rows))
    axes.grid(visible=False)
    return image


def _fit(axes: Any) -> None:
    left, right = axes.transData.transform([(-0.5, 0), (0.5, 0)])[:, 0]
    for text in axes.texts:
        fit_text(text, 0.94 * (right - left))
