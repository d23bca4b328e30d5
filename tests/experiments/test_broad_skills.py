"""Broad skills: tables show the measurements; repeated and resumed runs are equal."""

from __future__ import annotations

import json
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
from faststeer.cli.main import app
from faststeer.diagnostics.bench.hook_baselines import steer_with_hooks
from faststeer.evaluate import token_scores
from faststeer.experiments import Result
from faststeer.experiments.broad_skills import (
    CODE,
    PYTHON_ONLY,
    TEXT,
    Size,
    broad_skills,
    draw_sets,
)
from faststeer.experiments.broad_skills.sources import Source

SIZE = Size(layers=(0, 1, 2, 9), coefficients=(0.5, 4.0), documents=6, max_length=24)


def source(name: str, words: str) -> Source:
    """Return documents of a few words, each in a different order."""

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
    """Return a model that mostly predicts the most frequent words."""
    model = make_tiny()
    with torch.no_grad():
        model.lm_head.weight[tokenizer(" eats")["input_ids"]] *= 4
    return model


@pytest.fixture(scope="module")
def run(model, tokenizer) -> Callable[[Path], Result]:
    def once(output: Path, size: Size = SIZE, seed: int = 0) -> Result:
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


def test_an_interrupted_run_resumes_and_writes_the_same_files(run, done, tmp_path) -> None:
    folder = tmp_path / "cut off"
    shutil.copytree(done, folder)
    (folder / "outcome.json").unlink()
    (folder / "records" / "python-variants.jsonl").unlink()
    cut = folder / "records" / "code.jsonl"
    cut.write_bytes(cut.read_bytes()[:-1000])
    run(folder)
    assert files_in(folder) == files_in(done)


def test_measurements_of_another_seed_are_not_reused(run, done, tmp_path) -> None:
    shutil.copytree(done, tmp_path / "done")
    with pytest.raises(
        ValueError, match=r"code.jsonl is of another sweep: its seed is 0, and not 1"
    ):
        run(tmp_path / "done", seed=1)


def test_the_model_is_unchanged_afterwards(model, done) -> None:
    assert type(model.model.layers[0]).__module__.startswith("transformers")


def test_a_setting_equals_hooks_that_add_the_difference_of_means(model, tokenizer, done) -> None:
    """For every score, from vectors of `extract` and separately drawn documents."""
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


def test_layers_that_the_model_lacks_are_skipped_and_all_kinds_of_lines_are_reported(done) -> None:
    result = Result.read(done)
    assert result.facts["layers"] == [0, 1, 2]
    by_skill = result.evidence[0].tables
    names = [[row[0].partition(", ")[2] for row in table.rows] for table in by_skill]
    others = ["permuted means", "random, of equal norm", "after attention", "two at once"]
    assert names[0] == ["", "", "", *others]
    assert names[1] == [name for name in names[0] if name != "after attention"]
    figures = [figure.name for section in result.sections for figure in section.figures]
    assert figures == ["general_coding", "python_ability", "crosswise", "activation_distribution"]
    assert all((done / "figures" / f"{name}.png").stat().st_size > 10_000 for name in figures)


def test_every_setting_is_listed_with_the_accuracies_of_its_record(done) -> None:
    result = Result.read(done)
    [table] = [
        own
        for section in result.sections
        for own in section.tables
        if own.title.startswith("Accuracy relative")
    ]
    by_setting = {tuple(row[:3]): row[3:] for row in table.rows}
    for file, skill in (("code", CODE), ("python", PYTHON_ONLY)):
        _, _, *steered = (done / "records" / f"{file}.jsonl").read_text().splitlines()
        for record in map(json.loads, steered):
            [(layer, coefficient)] = record["steering"][file].items()
            row = by_setting[skill, f"layer {layer}", f"{coefficient:g}"]
            scores = record["scores"]
            expected = [100 * scores[name]["relative"] for name in (CODE, PYTHON_ONLY, TEXT)]
            assert row[:3] == pytest.approx(expected)
            assert row[-2:] == [scores[TEXT]["perplexity"], scores[TEXT]["kl"]]


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
def test_a_user_error_is_reported_and_nothing_written(
    tiny_folder, tmp_path, options, message
) -> None:
    output = tmp_path / "output"
    command = ["experiment", "broad-skills", "--model", str(tiny_folder), "--output", str(output)]
    result = CliRunner().invoke(app, [*command, *options])
    assert message in str(result.exception)
    assert not output.exists()


def test_report_shows_the_results_that_the_command_wrote(tiny_folder, tmp_path) -> None:
    output = tmp_path / "output"
    command = ["experiment", "broad-skills", "--model", str(tiny_folder), "--output", str(output)]
    size = ["--layers", "1", "--coefficients", "2", "--documents", "4", "--max-length", "16"]
    result = CliRunner().invoke(app, [*command, *size])
    assert result.exit_code == 0, result.output
    result = Result.read(output)
    assert "documentation" in result.facts["sources"]
    names = [row[0] for table in result.evidence[0].tables for row in table.rows]
    assert not any("two at once" in name for name in names)  # for one layer
    assert CliRunner().invoke(app, ["report", str(output)]).exit_code == 0
    assert "general code" in (output / "report.html").read_text()


def test_an_unwritable_output_is_reported_before_the_model_is_loaded(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    command = ["experiment", "broad-skills", "--model", str(tmp_path / "no model"), "--output"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "file" / "output")])
    assert isinstance(result.exception, NotADirectoryError)
