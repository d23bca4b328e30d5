"""The plots of an inspection are written with their numbers."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from inspected import PAIRS, TEXTS, steering
from tiny import MakeTiny
from transformers import AutoTokenizer

from faststeer import diagnostics
from faststeer.diagnostics.lens import Lens
from faststeer.diagnostics.plot_layers import norms_figure, separability_figure
from faststeer.diagnostics.plot_lens import lens_figure
from faststeer.utils.plot_style import contrast, figure_style


@pytest.fixture
def tiny_tokenizer(tiny_folder: Path):
    return AutoTokenizer.from_pretrained(tiny_folder)


def test_each_plot_has_its_numbers_beside_it(
    make_tiny: MakeTiny, tiny_tokenizer, tmp_path: Path
) -> None:
    model = make_tiny()
    found = diagnostics.inspect(
        steering(name="$x_1$"),
        model,
        tiny_tokenizer,
        texts=TEXTS,
        pairs=PAIRS,
        others=[steering(1, "東京")],
        progress=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as missing glyphs of the font
        written = diagnostics.write_plots(found, tmp_path / "new")
    names = ("norms", "cosines", "dose", "separability", "lens", "behaviours")
    assert {path.name for path in written} == {
        "inspection.json",
        *(f"{name}.{ending}" for name in names for ending in ("png", "csv")),
    }
    data = {}
    for name in names:
        assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        with (tmp_path / "new" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            data[name] = list(csv.DictReader(file))
    for row in data["separability"]:
        own = found.layers[int(row["layer"])]
        assert float(row["auc"]) == own.auc
        assert float(row["held_out_auc"]) == own.held_out_auc
    for row in data["dose"]:
        assert float(row["relative_dose"]) == found.layers[int(row["layer"])].dose
    assert len(data["lens"]) == 3 * 2 * 5
    assert data["behaviours"][0]["other"] == "東京"
    inspection = json.loads((tmp_path / "new" / "inspection.json").read_text(encoding="utf-8"))
    assert inspection["layers"]["1"]["auc"] == found.layers[1].auc


def test_a_file_alone_gives_the_plots_that_need_no_model(tmp_path: Path) -> None:
    one = diagnostics.write_plots(diagnostics.inspect(steering(layers=(2,))), tmp_path)
    assert [path.name for path in one] == ["inspection.json", "norms.png", "norms.csv"]


def test_without_matplotlib_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'faststeer\[plots\]'"):
        diagnostics.write_plots(diagnostics.inspect(steering()), tmp_path)
    assert not list(tmp_path.iterdir())


def inspected(**facts: object) -> diagnostics.Inspection:
    """Return an inspection without a model, whose layers have the given facts."""
    found = diagnostics.inspect(steering(layers=tuple(range(6))))
    for layer, own in found.layers.items():
        found.layers[layer] = replace(own, **facts)
    return found


def test_long_tokens_stay_inside_their_cells_and_can_be_read() -> None:
    texts = [" antidisestablishmentarianism", "東京東京東京", "ly", "W" * 40, "\n"]
    promoted = [(n, text, 11.0 - 2 * n) for n, text in enumerate(texts)]
    suppressed = [(n, text, 2.0 * n - 11.0) for n, text in enumerate(texts)]
    with figure_style():
        figure = lens_figure(inspected(lens=Lens(promoted, suppressed)))
    cut = set()
    for axes, first in zip(figure.axes[:2], (11.0, -11.0), strict=True):
        assert len(axes.texts) == 6 * len(texts)
        [image] = axes.images
        assert image.get_array()[0][0] == first
        for number, text in enumerate(axes.texts):
            x, y = number % len(texts), number // len(texts)
            (left, top), (right, bottom) = axes.transData.transform(
                [(x - 0.5, y - 0.5), (x + 0.5, y + 0.5)]
            )
            box = text.get_window_extent()
            assert left <= box.x0
            assert box.x1 <= right
            assert bottom <= box.y0
            assert box.y1 <= top
            fill = image.cmap(image.norm(image.get_array()[y][x]))
            assert contrast(text.get_color(), fill) >= 4.5
            if text.get_text().endswith("…"):
                cut.add(x)
    assert cut == {0, 1, 3}


def test_equal_aucs_are_beside_each_other_and_named() -> None:
    found = inspected(auc=1.0, held_out_auc=1.0, stability=0.9)
    with figure_style():
        above, below = separability_figure(found).axes
    first, second = (line.get_xdata() for line in above.lines[:2])
    assert all(b > a for a, b in zip(first, second, strict=True))
    names = [" ".join(text.get_text().split()) for text in above.texts]
    assert names == [
        "all pairs, which may have made the vector",
        "held out: each half's vector on the other half",
        "chance",
    ]
    boxes = [text.get_window_extent() for text in above.texts]
    assert not any(a.overlaps(b) for at, a in enumerate(boxes) for b in boxes[:at])
    assert [text.get_text() for text in below.texts] == ["of the halves'\nvectors"]


def test_ticks_of_norms_are_plain_digits() -> None:
    with figure_style():
        figure = norms_figure(inspected(norm=5.0, residual_norm=730.0))
    [axes] = figure.axes
    ticks = [text.get_text() for text in axes.get_yticklabels(which="both")]
    assert {"5", "50", "500"} <= set(ticks)
    assert all(text.replace(",", "").isdigit() for text in ticks)
