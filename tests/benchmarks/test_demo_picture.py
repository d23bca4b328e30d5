"""The demo's picture and table show its numbers legibly."""

from __future__ import annotations

import json

import demo_effect
from rich.console import Console

from faststeer.cli.demo_effects import Effect
from faststeer.cli.demo_tour import _show_effects
from faststeer.data.shipped import Behaviour
from faststeer.utils.plot_style import SMALL, figure_style

RESULT = json.loads(demo_effect.RESULT.read_text(encoding="utf-8"))


def test_the_picture_names_vector_and_random_directions_without_overlap() -> None:
    with figure_style():
        figure = demo_effect.make_figure(RESULT)
    assert len(figure.axes) == len(RESULT["behaviours"]) == 2
    for axes, behaviour in zip(figure.axes, RESULT["behaviours"], strict=True):
        names = [" ".join(text.get_text().split()) for text in axes.texts]
        assert names == [f"{behaviour['name']} vector", "4 random directions, mean |shift|"]
        assert behaviour["name"] in axes.get_title(loc="left")
        first, second = (text.get_window_extent() for text in axes.texts)
        assert not first.overlaps(second)
        assert max(first.x1, second.x1) <= figure.bbox.x1
        assert min(text.get_fontsize() for text in axes.texts) >= SMALL


def test_the_table_of_effects_fits_80_columns_with_every_number_whole() -> None:
    [behaviour] = [own for own in RESULT["behaviours"] if own["name"] == "sentiment"]
    effects = [Effect(**own) for own in behaviour["effects"]]
    console = Console(width=80)
    with console.capture() as shown:
        _show_effects(Behaviour.shipped("sentiment"), effects, console)
    table = [line for line in shown.get().splitlines() if line.startswith(("│", "┃", "┏"))]
    assert len(table) > len(effects)
    assert max(map(len, table)) <= 80
    for effect in effects:
        numbers = (f"{effect.margin:+.2f}", f"{effect.perplexity:.1f}")
        assert any(all(f" {own} " in line for own in numbers) for line in table)
