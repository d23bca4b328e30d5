"""What an experiment found can be read again, drawn, and shown as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from faststeer.cli.main import app
from faststeer.experiments import Figure, Outcome, Section, Table, as_page, outcomes_in
from faststeer.experiments.charts import KINDS, draw

SERIES = {"name": "layer <1>", "x": [1.0, 0.5], "y": [1.0, 0.7], "low": [1, 0.6], "high": [1, 0.8]}
DATA = {
    "curves": {"title": "t", "x": "code", "panels": [{"y": "text", "series": [SERIES]}]},
    "bars": {
        "title": "t",
        "y": "score",
        "groups": ["a", "b"],
        "series": [{"name": "add", "values": [0.5, None], "low": [0.4, None], "high": [0.6, None]}],
    },
    "histograms": {
        "title": "t",
        "x": "component",
        "panels": [
            {"title": "p", "edges": [0, 1, 2], "series": [{"name": "mean", "counts": [3, 0]}]}
        ],
    },
    "matrix": {
        "title": "t",
        "rows": ["a"],
        "columns": ["a", "b"],
        "values": [[0.5, None]],
        "label": "change",
        "reach": 1,
    },
}


@pytest.fixture
def outcome() -> Outcome:
    table = Table("<scores>", ["name", "score", "count"], [["a & b", 0.12345, 3], ["c", None, 0]])
    figures = [Figure(kind, kind, f"a picture of {kind}", data) for kind, data in DATA.items()]
    return Outcome(
        "some", "Some <experiment>", {"seed": 1}, [Section("One", "p1\n\np2", [table], figures)]
    )


def test_an_outcome_is_read_as_it_was_written(outcome: Outcome, tmp_path: Path) -> None:
    outcome.write(tmp_path)
    assert Outcome.read(tmp_path) == outcome


def test_each_picture_has_its_data_beside_it(outcome: Outcome, tmp_path: Path) -> None:
    outcome.write(tmp_path)
    for kind, data in DATA.items():
        assert (tmp_path / "figures" / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((tmp_path / "figures" / f"{kind}.json").read_text())["data"] == data


@pytest.mark.parametrize("kind", KINDS)
def test_equal_data_give_equal_pictures_and_other_data_others(kind: str) -> None:
    first = draw(kind, DATA[kind])
    assert draw(kind, DATA[kind]) == first
    assert draw(kind, DATA[kind] | {"title": "another"}) != first


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ValueError, match="kind 'pie' is unknown"):
        draw("pie", {})
    with pytest.raises(ValueError, match="a picture of bars needs 'groups'"):
        draw("bars", {"series": []})


def test_a_number_that_is_none_is_never_written(tmp_path: Path) -> None:
    broken = Outcome("some", "t", {"loss": float("nan")}, [])
    with pytest.raises(ValueError, match="JSON compliant"):
        broken.write(tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_the_page_holds_tables_and_pictures_and_loads_nothing(
    outcome: Outcome, tmp_path: Path
) -> None:
    outcome.write(tmp_path / "one")
    outcome.write(tmp_path / "two")
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 0, result.output
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * len(DATA)
    assert '<td>a &amp; b</td><td class="number">0.123</td><td class="number">3</td>' in page
    assert "Some &lt;experiment&gt;" in page
    assert not re.search(r"<script|https?://|<experiment>|src=\"(?!data:)", page)


def test_a_long_table_is_one_line_on_the_terminal(outcome: Outcome, capsys) -> None:
    short = Table("short", ["n"], [[n] for n in range(16)])
    long = Table("long", ["n"], [[1000 + n] for n in range(17)])
    Outcome("some", "t", {}, [Section("One", "", [short, long])]).show(Console())
    told = capsys.readouterr().out
    assert "│ 15 │" in told
    assert "long: 17 rows in outcome.json" in told
    assert "1000" not in told


def test_a_folder_without_outcomes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no outcome\.json here"):
        outcomes_in(tmp_path)
    (tmp_path / "outcome.json").write_text('{"experiment": 1')
    with pytest.raises(ValueError, match="not the outcome of an experiment"):
        outcomes_in(tmp_path)


def test_a_picture_that_is_gone_is_said(outcome: Outcome, tmp_path: Path) -> None:
    outcome.write(tmp_path)
    (tmp_path / "figures" / "bars.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"bars\.png"):
        as_page(outcomes_in(tmp_path))
