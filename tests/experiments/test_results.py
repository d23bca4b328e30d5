"""The result of an experiment can be read again, drawn, and shown as a page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from markupsafe import escape
from places import ROOT
from rich.console import Console
from typer.testing import CliRunner

from faststeer.cli.main import app
from faststeer.experiments import Figure, Result, Section, Table, as_page, results_in
from faststeer.experiments.charts import KINDS, draw
from faststeer.experiments.result import FINDINGS

COMMITTED = ROOT / "docs" / "results"
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
def result() -> Result:
    table = Table("<scores>", ["name", "score", "count"], [["a & b", 0.12345, 3], ["c", None, 0]])
    figures = [Figure(kind, kind, f"a picture of {kind}", data) for kind, data in DATA.items()]
    return Result(
        "some", "Some <experiment>", {"seed": 1}, [Section("One", "p1\n\np2", [table], figures)]
    )


def test_a_result_is_read_back_unchanged(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    assert Result.read(tmp_path) == result


def test_each_plot_has_its_data_beside_it(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    for kind, data in DATA.items():
        assert (tmp_path / "figures" / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
        assert json.loads((tmp_path / "figures" / f"{kind}.json").read_text())["data"] == data


@pytest.mark.parametrize("kind", KINDS)
def test_equal_data_give_equal_plots_and_other_data_different_ones(kind: str) -> None:
    first = draw(kind, DATA[kind])
    assert draw(kind, DATA[kind]) == first
    assert draw(kind, DATA[kind] | {"title": "another"}) != first


def test_a_plot_that_cannot_be_drawn_is_reported() -> None:
    with pytest.raises(ValueError, match="kind 'pie' is unknown"):
        draw("pie", {})
    with pytest.raises(ValueError, match="a figure of bars needs 'groups'"):
        draw("bars", {"series": []})


def test_nan_is_never_written(tmp_path: Path) -> None:
    broken = Result("some", "t", {"loss": float("nan")}, [])
    with pytest.raises(ValueError, match="JSON compliant"):
        broken.write(tmp_path)
    assert not list(tmp_path.glob("*.json"))


def test_the_page_contains_tables_and_plots_and_loads_nothing(
    result: Result, tmp_path: Path
) -> None:
    result.write(tmp_path / "one")
    result.write(tmp_path / "two")
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * len(DATA)
    assert (
        '<td class="short">a &amp; b</td><td class="number">0.123</td><td class="number">3</td>'
        in page
    )
    assert "Some &lt;experiment&gt;" in page
    assert not re.search(r"<script|https?://|<experiment>|src=\"(?!data:)", page)


def test_contents_link_to_every_section_and_the_findings_come_first(tmp_path: Path) -> None:
    """The first result of the folder has long findings in the middle, the second short ones."""
    long = Section("Verdict", "\n\n".join(f"finding {n}" for n in range(9)))
    for name, sections in {
        "a": [Section("Unsteered", "a failure"), long],
        "b": [Section("Every setting", "numbers"), Section(FINDINGS, "the answer")],
        "c": [Section("Only numbers", "unexplained")],
    }.items():
        Result("some", f"experiment {name}", {"seed": name}, sections).write(tmp_path / name)
    page = as_page(results_in(tmp_path))
    links, ids = re.findall(r'href="#([^"]+)"', page), re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(links) <= set(ids)
    contents = page[page.index("<nav") : page.index("</nav>")]
    for heading in ("experiment a", "Unsteered", "Every setting", "Only numbers"):
        assert f">{heading}</a>" in contents.replace("<b>", "").replace("</b>", "")
    places = [
        page.index(f"<p>{text}</p>")
        for text in ("the answer", "finding 0", "finding 8", "numbers", "a failure", "unexplained")
    ]
    assert places == sorted(places)
    assert page.index("<details") > page.index("<p>finding 2</p>")
    assert "<summary>6 more</summary>" in page


def test_one_result_shows_its_figures_and_folds_its_tables(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    page = as_page(results_in(tmp_path))
    unfolded = re.sub(r"<details.*?</details>", "", page, flags=re.DOTALL)
    assert unfolded.count("<img") == len(DATA)
    assert "<table" not in unfolded
    assert page.count("<table") == 1


def test_a_table_fits_80_columns_on_the_terminal(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    columns = ["steering", *(f"trait {n}" for n in range(9)), "mean"]
    row = ["simultaneous, each at its layer, one coefficient", *["0.888 [0.82, 0.95]"] * 9, 0.25]
    table = Table("Matching probability", columns, [row])
    Result("some", "t", {}, [Section("One", "", [table])]).show(Console())
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 80
    assert output.count("0.888 [0.82, 0.95]") == 9
    assert "0.250" in output


def test_a_result_is_drawn_again_without_changing_its_data(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")}
    for path in (tmp_path / "figures").glob("*.png"):
        path.unlink()
    Result.read(tmp_path).draw(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_long_table_is_summarised_in_one_line_on_the_terminal(result: Result, capsys) -> None:
    short = Table("short", ["n"], [[n] for n in range(16)])
    long = Table("long", ["n"], [[1000 + n] for n in range(17)])
    Result("some", "t", {}, [Section("One", "", [short, long])]).show(Console())
    output = capsys.readouterr().out
    assert "│ 15 │" in output
    assert "long: 17 rows in outcome.json" in output
    assert "1000" not in output


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no outcome\.json here"):
        results_in(tmp_path)
    (tmp_path / "outcome.json").write_text('{"experiment": 1')
    with pytest.raises(ValueError, match="not the result of an experiment"):
        results_in(tmp_path)


def test_a_missing_plot_is_reported(result: Result, tmp_path: Path) -> None:
    result.write(tmp_path)
    (tmp_path / "figures" / "bars.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"bars\.png"):
        as_page(results_in(tmp_path))


@pytest.mark.parametrize("name", sorted(path.parent.name for path in COMMITTED.glob("*/*.json")))
def test_committed_results_are_read_and_reported_whichever_version_made_them(name: str) -> None:
    folder = COMMITTED / name
    content = json.loads((folder / "outcome.json").read_text())
    page = as_page(results_in(folder))
    for section in content["sections"]:
        for own in (*section["tables"], *section["figures"]):
            assert str(escape(own.get("title") or own["caption"])) in page
        assert all(str(escape(part)) in page for part in section["text"].split("\n\n"))
    assert page.count("<td") == sum(
        len(row)
        for section in content["sections"]
        for table in section["tables"]
        for row in table["rows"]
    )


def test_all_shipped_traits_are_movable_in_the_committed_results() -> None:
    content = json.loads((COMMITTED / "traits" / "outcome.json").read_text())
    tables = [table for section in content["sections"] for table in section["tables"]]
    [alone] = [table for table in tables if table["title"].startswith("Each vector alone")]
    movable = {
        row[0].partition(":")[0]: row[alone["columns"].index("movable")] for row in alone["rows"]
    }
    assert movable == dict.fromkeys(content["facts"]["traits"], "yes")
    assert len(movable) == 6
