"""Broad skills: what is told is what was measured; two runs, also cut off ones, are equal."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from result_files import files_in
from transformers import AutoTokenizer
from typer.testing import CliRunner

import faststeer
from faststeer.bench.hook_baselines import steer_with_hooks
from faststeer.cli.main import app
from faststeer.evaluate import token_scores
from faststeer.experiments import Outcome
from faststeer.experiments.broad import (
    CODE,
    PYTHON_ONLY,
    TEXT,
    Size,
    broad_skills,
    draw_sets,
    hypotheses,
)
from faststeer.experiments.broad.lines import Line
from faststeer.experiments.broad.sources import Source

SIZE = Size(layers=(0, 1, 2, 9), coefficients=(0.5, 4.0), documents=6, max_length=24)


def source(name: str, words: str) -> Source:
    """Documents of some words, each in an order of its own."""

    def shuffled(draw: random.Random) -> Iterator[str]:
        for _ in range(40):
            yield " ".join(draw.sample(words.split(), 5)) + "."

    return Source(name, shuffled)


CODE_SOURCES = [
    source("Python", "def print import class return lambda yield"),
    source("C", "int char void struct static return sizeof"),
    source("C++", "template namespace std:: class typename auto"),
]
TEXT_SOURCES = [
    source("novels", "the sea was calm and she went home"),
    source("letters", "dear friend i hope that you are well"),
]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path):
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def model(make_tiny, tokenizer):
    """It mostly says what most texts are full of."""
    model = make_tiny()
    with torch.no_grad():
        model.lm_head.weight[tokenizer(" eats")["input_ids"]] *= 4
    return model


@pytest.fixture(scope="module")
def run(model, tokenizer) -> Callable[[Path], Outcome]:
    def once(output: Path, size: Size = SIZE, seed: int = 0) -> Outcome:
        return broad_skills(
            model,
            tokenizer,
            CODE_SOURCES,
            TEXT_SOURCES,
            output=output,
            size=size,
            seed=seed,
            progress=False,
        )

    return once


@pytest.fixture(scope="module")
def done(run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    run(folder)
    return folder


def test_two_runs_write_equal_files(run, done, tmp_path) -> None:
    run(tmp_path)
    assert files_in(tmp_path) == files_in(done)


def test_an_interrupted_run_goes_on_to_the_same_files(run, done, tmp_path) -> None:
    folder = tmp_path / "cut off"
    shutil.copytree(done, folder)
    (folder / "outcome.json").unlink()
    (folder / "records" / "python-variants.jsonl").unlink()
    cut = folder / "records" / "code.jsonl"
    cut.write_bytes(cut.read_bytes()[:-1000])
    run(folder)
    assert files_in(folder) == files_in(done)


def test_what_another_seed_measured_is_not_taken_up(run, done, tmp_path) -> None:
    shutil.copytree(done, tmp_path / "done")
    with pytest.raises(
        ValueError, match=r"code.jsonl is of another sweep: its seed is 0, and not 1"
    ):
        run(tmp_path / "done", seed=1)


def test_the_model_is_as_it_was_afterwards(model, done) -> None:
    assert type(model.model.layers[0]).__module__.startswith("transformers")


def test_a_setting_is_as_hooks_that_add_the_difference_of_means_make_it(
    model, tokenizer, done
) -> None:
    """Every score of it, from vectors of `extract` and documents drawn apart."""
    sets = draw_sets(CODE_SOURCES, TEXT_SOURCES, tokenizer, documents=6, max_length=24, seed=0)
    rows = (done / "records" / "code.jsonl").read_text().splitlines()[1:]
    records = {json.dumps(row["steering"]): row for row in map(json.loads, rows)}
    vector = faststeer.extract(
        model,
        tokenizer,
        positive=sets.train_of(TEXT),
        negative=sets.train_of(CODE),
        layers=[1],
        max_length=24,
        progress=False,
    )
    record = records['{"code": {"1": 0.5}}']["scores"]
    for skill in (CODE, PYTHON_ONLY, TEXT):
        texts = sets.held_out_of(skill)
        unsteered = token_scores(model, tokenizer, texts, max_length=24)
        with steer_with_hooks(model, [(vector, 0.5)]):
            own = token_scores(model, tokenizer, texts, max_length=24)
        assert record[skill]["accuracy"] == own.accuracy
        assert record[skill]["accuracy10"] == own.accuracy10
        assert record[skill]["perplexity"] == pytest.approx(own.perplexity, rel=1e-4)
        assert record[skill]["relative"] == own.accuracy / unsteered.accuracy


def test_layers_that_the_model_lacks_are_left_out_and_all_kinds_of_lines_are_told(done) -> None:
    outcome = Outcome.read(done)
    assert outcome.facts["layers"] == [0, 1, 2]
    by_skill = outcome.sections[0].tables
    names = [[row[0].partition(", ")[2] for row in table.rows] for table in by_skill]
    others = ["permuted means", "random, of equal norm", "after attention", "two at once"]
    assert names[0] == ["", "", "", *others]
    assert names[1] == [name for name in names[0] if name != "after attention"]
    figures = [figure.name for section in outcome.sections for figure in section.figures]
    assert figures == ["general_coding", "python_ability", "crosswise", "activation_distribution"]
    assert all((done / "figures" / f"{name}.png").stat().st_size > 10_000 for name in figures)


def line(
    skill: str, text: list[int], own: list[int], layer: int = 10, kind: str = "vector"
) -> Line:
    """Eight documents of a hundred tokens of each; hits at growing coefficients."""
    records = []
    for step, hits in enumerate(zip(own, text, strict=True)):
        items = {
            name: {
                "tokens": [100] * 8,
                "top1": [count] * 8,
                "top10": [count] * 8,
                "surprise": [1.0] * 8,
                "divergence": [0.0] * 8,
            }
            for name, count in zip((skill, TEXT), hits, strict=True)
        }
        steering = {"v": {str(layer): float(step)}} if step else {}
        records.append({"steering": steering, "scores": {}, "items": items})
    return Line(kind, skill, [layer], records, {name: {name: 8} for name in (skill, TEXT)})


def test_between_two_coefficients_what_is_kept_lies_on_a_straight_line() -> None:
    steered = line(CODE, text=[50, 40, 25], own=[80, 60, 20])
    assert steered.relative(CODE) == [1, 0.75, 0.25]
    assert steered.kept(0.75) == 0.8
    assert steered.kept(0.5) == pytest.approx(0.65)
    assert steered.dose(0.5) == pytest.approx(1.5)
    assert math.isnan(steered.kept(0.2))


def test_an_interval_of_equal_documents_has_no_width_and_an_unreached_level_has_none() -> None:
    steered = line(CODE, text=[50, 40, 25], own=[80, 60, 20])
    low, high = steered.sure(lambda at: steered.kept(0.5, documents=at), seed=0)
    assert low == pytest.approx(0.65)
    assert high == pytest.approx(0.65)
    assert steered.sure(lambda at: steered.kept(0.2, documents=at), seed=0) is None


def test_sentences_follow_the_numbers_also_where_they_go_against_the_paper() -> None:
    good = line(CODE, text=[50, 40, 25], own=[80, 40, 10])
    bad = line(CODE, text=[50, 20, 5], own=[80, 40, 10], layer=0)
    assert "yes (80.0% against 40.0%" in hypotheses.first_layer([bad, good], 0)
    swapped = [replace_layer(good, 0), replace_layer(bad, 10)]
    assert "no, the other way round (40.0%" in hypotheses.first_layer(swapped, 0)
    permuted = line(CODE, text=[50, 20, 5], own=[80, 40, 10], kind="permuted means")
    assert "permuted means: yes (80.0%" in hypotheses.baselines(good, [permuted], 0)
    best = line(CODE, text=[50, 48, 46], own=[80, 40, 10], kind="permuted means")
    assert "the other way round" in hypotheses.baselines(good, [best], 0)
    never = line(CODE, text=[50, 49, 48], own=[80, 79, 78], kind="permuted means")
    assert "falls to 97.5% at most, so this is not told" in hypotheses.baselines(good, [never], 0)


def replace_layer(own: Line, layer: int) -> Line:
    own.places = [layer]
    return own


def test_the_tax_grows_where_the_last_points_cost_more_than_the_first() -> None:
    own = [100, 80, 50, 30]
    growing = line(CODE, text=[100, 98, 80, 50], own=own)
    assert "costs 0.10 points" in hypotheses.growing_tax(growing, 0)
    assert "it grows" in hypotheses.growing_tax(growing, 0)
    falling = line(CODE, text=[100, 70, 60, 59], own=own)
    assert "it falls" in hypotheses.growing_tax(falling, 0)
    straight = line(CODE, text=[100, 50], own=[100, 0])
    assert "Not told" in hypotheses.growing_tax(straight, 0)


def test_broad_and_narrow_are_compared_at_half_and_at_equal_coefficients() -> None:
    code = line(CODE, text=[100, 60, 20], own=[100, 50, 10])
    python = line(PYTHON_ONLY, text=[100, 90, 80], own=[100, 50, 10])
    said = hypotheses.broad_against_narrow([code], [python], 0)
    assert "60.0% for general code (layer 10) and 90.0% for Python" in said
    assert "+30.0 points (95 %: +30.0 to +30.0): here the broad skill is harder to steer." in said
    assert "1 at layer 10, general code falls to 50.0% (text to 60.0%)" in said


def test_the_setting_with_python_at_half_that_keeps_most_text_is_told() -> None:
    held = line(PYTHON_ONLY, text=[100, 95, 75], own=[100, 60, 40])
    assert "Python is at 40.0%, text at 75.0%, at least the 70%" in hypotheses.python_at_half(
        [held]
    )
    never = line(PYTHON_ONLY, text=[100, 95, 75], own=[100, 90, 80])
    assert "fell to 50 % at no setting" in hypotheses.python_at_half([never])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--text", "nowhere"], "nowhere: no such file or folder"),
        (["--code", "nowhere"], "nowhere: no such file or folder"),
        (["--quick", "--paper"], "give either --quick or --paper"),
        (["--coefficients", "a"], "expected numbers such as"),
        (["--coefficients", "0,1"], "coefficients [0.0, 1.0]: expected numbers above 0"),
        (["--layers", "x"], "--layers 'x': expected 'all'"),
        (["--documents", "2"], "--documents 2: expected at least 3"),
        (["--model", "random:tiny"], "has random weights and no tokenizer"),
    ],
)
def test_a_mistake_is_told_and_nothing_written(tiny_folder, tmp_path, options, message) -> None:
    output = tmp_path / "output"
    command = ["experiment", "broad-skills", "--model", str(tiny_folder), "--output", str(output)]
    result = CliRunner().invoke(app, [*command, *options])
    assert message in str(result.exception)
    assert not output.exists()


def test_the_command_writes_what_report_shows(tiny_folder, tmp_path) -> None:
    output = tmp_path / "output"
    command = ["experiment", "broad-skills", "--model", str(tiny_folder), "--output", str(output)]
    size = ["--layers", "1", "--coefficients", "2", "--documents", "4", "--max-length", "16"]
    result = CliRunner().invoke(app, [*command, *size])
    assert result.exit_code == 0, result.output
    outcome = Outcome.read(output)
    assert "documentation" in outcome.facts["sources"]
    names = [row[0] for table in outcome.sections[0].tables for row in table.rows]
    assert not any("two at once" in name for name in names)  # of one layer
    assert CliRunner().invoke(app, ["report", str(output)]).exit_code == 0
    assert "general code" in (output / "report.html").read_text()


def test_an_output_that_cannot_be_written_is_told_before_the_model_is_loaded(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    command = ["experiment", "broad-skills", "--model", str(tmp_path / "no model"), "--output"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "file" / "output")])
    assert isinstance(result.exception, NotADirectoryError)
