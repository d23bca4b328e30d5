"""Plots of an inspection, each with a CSV file of its data."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from faststeer.diagnostics.inspection import Inspection
from faststeer.diagnostics.token_text import printable, show_spaces
from faststeer.utils.files import write_whole

_Rows = list[list[Any]]  # of a CSV file, with its header
_BLUE, _ORANGE, _GREEN = "#0072b2", "#d55e00", "#009e73"  # Okabe and Ito, safe for colour blindness


def write_plots(inspection: Inspection, folder: Path) -> list[Path]:
    """Write a PNG plot of each part of the inspection, its data as CSV, and the whole as JSON.

    Returns the paths written. The folder is created if needed; existing files are replaced.

    Raises:
        ValueError: matplotlib is not installed, or `folder` is a file.
    """
    require_plots(folder)
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "inspection.json"]
    content = json.dumps(inspection.to_json(), indent=1, ensure_ascii=False, default=str)
    write_whole(written[0], content.encode())
    facts = inspection.layers.values()
    plots: dict[str, Callable[[Inspection, Any], _Rows]] = {"norms": _norms}
    if len(facts) > 1:
        plots["cosines"] = _cosines
    if any(own.dose is not None for own in facts):
        plots["dose"] = _dose
    if any(own.auc is not None for own in facts):
        plots["separability"] = _separability
    if any(own.lens is not None for own in facts):
        plots["lens"] = _lens
    if inspection.between:
        plots["behaviours"] = _between
    for name, draw in plots.items():
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        rows = draw(inspection, figure)
        image, table = io.BytesIO(), io.StringIO(newline="")
        figure.savefig(image, format="png", dpi=150)
        csv.writer(table).writerows(rows)
        for ending, data in (("png", image.getvalue()), ("csv", table.getvalue().encode())):
            path = folder / f"{name}.{ending}"
            write_whole(path, data)
            written.append(path)
    return written


def require_plots(folder: Path) -> None:
    """Raise ValueError if plots cannot be written to `folder`, before any long computation."""
    if find_spec("matplotlib") is None:
        raise ValueError("plots need matplotlib: pip install 'faststeer[plots]'")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: plots go into a folder, and this is a file")


def _norms(inspection: Inspection, figure: Any) -> _Rows:
    layers = list(inspection.layers)
    norms = [facts.norm for facts in inspection.layers.values()]
    residual = [facts.residual_norm for facts in inspection.layers.values()]
    axes = _by_layer(figure, inspection, "norm of the vector by layer", "Euclidean norm")
    axes.plot(layers, norms, "o-", color=_ORANGE, label="vector")
    if None not in residual:
        axes.plot(layers, residual, "s-", color=_BLUE, label="residual stream, median over tokens")
        axes.set_yscale("log")
        axes.set_ylabel("Euclidean norm (log scale)")
    else:
        axes.set_ylim(bottom=0)
    axes.legend()
    return [
        ["layer", "vector_norm", "residual_norm"],
        *map(list, zip(layers, norms, residual, strict=True)),
    ]


def _dose(inspection: Inspection, figure: Any) -> _Rows:
    layers = list(inspection.layers)
    doses = [facts.dose for facts in inspection.layers.values()]
    title = (
        f"norm added at coefficient {inspection.coefficient:+g}, relative to the residual stream"
    )
    axes = _by_layer(figure, inspection, title, "share of the residual stream's median norm (%)")
    axes.set_axisbelow(True)
    axes.bar(layers, [100 * (dose or 0) for dose in doses], color=_ORANGE)
    return [["layer", "relative_dose"], *map(list, zip(layers, doses, strict=True))]


def _separability(inspection: Inspection, figure: Any) -> _Rows:
    layers = list(inspection.layers)
    facts = inspection.layers.values()
    series = {
        "auc": [layer.auc for layer in facts],
        "held_out_auc": [layer.held_out_auc for layer in facts],
        "cosine_of_halves": [layer.stability for layer in facts],
    }
    title = "separability of positive and negative texts; agreement of the halves' vectors"
    axes = _by_layer(figure, inspection, title, "AUC (0.5: chance), cosine")
    axes.axhline(0.5, color="grey", linewidth=1, linestyle=":", label="AUC of chance")
    axes.plot(layers, series["auc"], "o-", color=_ORANGE, label="AUC of the vector, all pairs")
    axes.plot(
        layers,
        series["held_out_auc"],
        "s-",
        color=_BLUE,
        label="AUC of each half's vector on the other half",
    )
    axes.plot(
        layers,
        series["cosine_of_halves"],
        "^--",
        color=_GREEN,
        label="cosine of the halves' vectors",
    )
    axes.set_ylim(top=1.02)
    axes.legend()
    return [["layer", *series], *map(list, zip(layers, *series.values(), strict=True))]


def _cosines(inspection: Inspection, figure: Any) -> _Rows:
    layers = list(inspection.layers)
    figure.set_size_inches(6.4, 5.6)
    axes = _titled(figure, inspection, "cosine between layers")
    _heat(figure, axes, inspection.cosines.tolist())
    _ticks(axes.set_xticks, layers)
    _ticks(axes.set_yticks, layers)
    axes.set_xlabel("layer")
    axes.set_ylabel("layer")
    rows = [[layer, *row] for layer, row in zip(layers, inspection.cosines.tolist(), strict=True)]
    return [["layer", *layers], *rows]


def _between(inspection: Inspection, figure: Any) -> _Rows:
    names = [f"{_drawable(a)}, {_drawable(b)}" for a, b in inspection.between]
    values = [list(by_layer.values()) for by_layer in inspection.between.values()]
    layers = list(next(iter(inspection.between.values())))
    figure.set_size_inches(4 + 0.3 * len(layers), 2 + 0.4 * len(names))
    axes = _titled(figure, inspection, "cosine between vectors of several behaviours")
    _heat(figure, axes, values)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            axes.text(x, y, f"{value:+.2f}", ha="center", va="center", fontsize=6)
    _ticks(axes.set_xticks, layers)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_xlabel("layer")
    rows = [[a, b, *row] for (a, b), row in zip(inspection.between, values, strict=True)]
    return [["vector", "other", *layers], *rows]


def _lens(inspection: Inspection, figure: Any) -> _Rows:
    lenses = {n: layer.lens for n, layer in inspection.layers.items() if layer.lens is not None}
    cells = {n: [*lens.promoted, *lens.suppressed] for n, lens in lenses.items()}
    count = len(next(iter(cells.values()))) // 2
    figure.set_size_inches(2 + 2.4 * count, 2.0 + 0.3 * len(cells))
    title = (
        "logit lens: tokens promoted (left) and suppressed (right), ␣ for a space;\n"
        "their logits in standard deviations from the vocabulary's mean"
    )
    axes = _titled(figure, inspection, title)
    values = [[z for _, _, z in row] for row in cells.values()]
    axes.imshow(values, cmap="RdBu_r", vmin=-10, vmax=10, aspect="auto")  # pale at the usual 4 to 6
    for y, row in enumerate(cells.values()):
        for x, (_, text, z) in enumerate(row):
            label = f"{_drawable(show_spaces(text))}  {z:+.1f}"
            axes.text(x, y, label, ha="center", va="center", fontsize=8, parse_math=False)
    axes.axvline(count - 0.5, color="black", linewidth=1)
    ranks = [f"{rank}." for rank in range(1, count + 1)]
    axes.set_xticks(range(2 * count), ranks * 2)
    axes.set_yticks(range(len(cells)), list(cells))
    axes.set_xlabel("rank among promoted and suppressed tokens")
    axes.set_ylabel("layer")
    rows: _Rows = [["layer", "rank", "kind", "token", "text", "z"]]
    for layer, lens in lenses.items():
        for kind, side in (("promoted", lens.promoted), ("suppressed", lens.suppressed)):
            for rank, (token, text, z) in enumerate(side, 1):
                rows.append([layer, rank, kind, token, text, z])
    return rows


def _titled(figure: Any, inspection: Inspection, title: str) -> Any:
    axes = figure.subplots()
    vector = f"{_drawable(inspection.name)} at {inspection.site}"
    axes.set_title(f"{vector}\n{title}", fontsize=11, parse_math=False)
    return axes


def _by_layer(figure: Any, inspection: Inspection, title: str, unit: str) -> Any:
    axes = _titled(figure, inspection, title)
    axes.set_xlabel("layer")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    layers = list(inspection.layers)
    axes.set_xticks(layers[:: -(-len(layers) // 16)])
    axes.set_xlim(layers[0] - 1, layers[-1] + 1)
    return axes


def _heat(figure: Any, axes: Any, values: Sequence[Sequence[float]]) -> None:
    """Draw cosines, red above zero and blue below it, pale enough for text on top."""
    image = axes.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", alpha=0.7)
    figure.colorbar(image, ax=axes, label="cosine")


def _ticks(set_ticks: Callable[..., Any], layers: list[int]) -> None:
    """Label an axis with layer numbers, at most 16 of them."""
    step = -(-len(layers) // 16)
    set_ticks(range(0, len(layers), step), layers[::step])


def _drawable(text: str) -> str:
    """Return the text with escapes for characters that matplotlib's font lacks."""
    available = _font_characters()
    return "".join(
        letter if ord(letter) in available else ascii(letter)[1:-1] for letter in printable(text)
    )


@cache
def _font_characters() -> frozenset[int]:
    from matplotlib import font_manager, ft2font

    return frozenset(ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap())
