"""The picture of a vector's card: its norm at each layer, or the caller's own."""

from __future__ import annotations

import io
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from faststeer.utils.text_files import open_file
from faststeer.vectors.formats.vector_data import VectorData

_KINDS = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp")
_ORANGE = "#d55e00"  # of Okabe and Ito, as the plots of diagnostics have it


class Picture(NamedTuple):
    """An image file's name in the repository, and its content."""

    name: str
    content: bytes


def card_picture(vector: VectorData, given: str | PathLike[str] | None) -> Picture | None:
    """Return the picture that is given, else one of the norms; None without matplotlib.

    Raises:
        ValueError: a file that is no image by its suffix.
        OSError: it cannot be opened.
    """
    if given is not None:
        file = Path(given)
        if file.suffix.lower() not in _KINDS:
            raise ValueError(f"picture {file}: expected an image, one of {', '.join(_KINDS)}")
        with open_file(file, "an image") as opened:
            return Picture(f"picture{file.suffix.lower()}", opened.read())
    return None if find_spec("matplotlib") is None else Picture("norms.png", _norms(vector))


def _norms(vector: VectorData) -> bytes:
    """Draw the norms as PNG."""
    from matplotlib.figure import Figure

    layers = sorted(vector.directions)
    norms = [float(vector.directions[layer].norm()) for layer in layers]
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"norm of the vector by layer, at {vector.site}", fontsize=11)
    axes.set_xlabel("layer")
    axes.set_ylabel("Euclidean norm")
    axes.grid(alpha=0.3)
    axes.plot(layers, norms, "o-", color=_ORANGE)
    axes.set_xticks(layers[:: -(-len(layers) // 16)])
    axes.set_xlim(layers[0] - 1, layers[-1] + 1)
    axes.set_ylim(bottom=0)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100, metadata={"Software": None})
    return png.getvalue()
