"""The plots of an inspection are written with their numbers."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import pytest
from inspected import PAIRS, TEXTS, steering
from tiny import MakeTiny
from transformers import AutoTokenizer

from faststeer import diagnostics


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
