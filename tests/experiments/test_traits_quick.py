"""The quick run on the shipped traits and SmolLM2: its numbers are those of plain hooks."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import run as command
from markupsafe import escape
from plain_hooks import hooked

from faststeer import SteeringVector
from faststeer.data.trait_files import SHIPPED_TRAITS, Trait
from faststeer.evaluate.continuation_sets import set_scores
from faststeer.experiments import Result
from faststeer.experiments.result import Table
from faststeer.experiments.traits import Protocol
from faststeer.experiments.traits.experiment import _shortened


@pytest.fixture(scope="module")
def quick(built_once) -> Path:
    """Return the folder of the command's quick run on SmolLM2, shared by all tests of it."""

    def build(place: Path) -> None:
        output = command(*["experiment", "behaviours", "--quick", "--output"], place)
        (place / "output.txt").write_text(output)

    return built_once("several-traits", build)


@pytest.fixture(scope="module")
def tables(quick: Path) -> list[Table]:
    return [table for section in Result.read(quick).sections for table in section.tables]


def starting(tables: list[Table], title: str) -> Table:
    [found] = [table for table in tables if table.title.startswith(title)]
    return found


def test_the_demo_models_default_is_the_six_traits(quick: Path, tables: list[Table]) -> None:
    result = Result.read(quick)
    shown = " ".join((quick / "output.txt").read_text().split())
    assert all(paragraph in shown for part in result.sections for paragraph in part.paragraphs)
    rows = starting(tables, "Each vector alone").rows
    assert [row[0].partition(":")[0] for row in rows] == list(SHIPPED_TRAITS)
    assert [row[0] for row in starting(tables, "Share of the effect").rows] == [1, 2, 3, 4, 5, 6]
    assert list(result.facts["traits"]) == list(SHIPPED_TRAITS)


def test_the_verdict_is_the_tables_difference_at_equal_tax(
    quick: Path, tables: list[Table]
) -> None:
    [verdict] = Result.read(quick).sections[0].paragraphs
    table = starting(tables, "Differences of the mean effect at equal tax")
    rows = {row[0]: row[1] for row in table.rows}
    assert f"differs by {rows['simultaneous − combined']}, simultaneous − combined" in verdict
    assert table.columns[1] == "at a tax of 5%"


@pytest.mark.parametrize("name", ["tense", "setting"])
def test_a_traits_probabilities_are_those_of_plain_hooks(
    quick: Path, tables: list[Table], demo, name: str
) -> None:
    sizes = Protocol.quick()
    own = _shortened(Trait.shipped(name), sizes.items, sizes.pairs)
    vector = SteeringVector.load(quick / "vectors" / f"{name}.safetensors")
    [row] = [row for row in starting(tables, "Each vector alone").rows if row[0].startswith(name)]
    high, low = map(float, row[2].split(", "))
    found = []
    for coefficient in (low, 0.0, high):
        with hooked(demo.model.model, [(vector, coefficient, [row[1]])]):
            found.append(set_scores(demo.model, demo.tokenizer, own.test).probability)
    assert [float(cell.split()[0]) for cell in row[3:6]] == pytest.approx(found, abs=6e-4)
    assert found[2] - found[0] > 0.3


def test_the_report_has_every_figure(quick: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command("report", quick, "--output", page)
    html = page.read_text()
    figures = [figure for part in Result.read(quick).sections for figure in part.figures]
    assert len(figures) == 6
    assert html.count("data:image/png;base64,") == 6
    assert all(str(escape(figure.caption)) in html for figure in figures)
