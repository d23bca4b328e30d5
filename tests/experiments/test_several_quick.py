"""The quick run of several behaviours on SmolLM2: its answers are those of plain hooks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from command_line import run as command
from places import BEHAVIOURS as DATA
from plain_hooks import hooked

from faststeer import SteeringVector
from faststeer.evaluate.matching import matching_scores
from faststeer.experiments import Result
from faststeer.experiments.several_behaviours import BEHAVIOURS, Protocol, read_behaviours


@pytest.fixture(scope="module")
def quick(built_once) -> Path:
    """Return the folder of the command's quick run on SmolLM2, shared by all tests of it."""
    if not DATA.is_dir():
        pytest.skip(f"the behaviours are not there: no {DATA}")

    def build(place: Path) -> None:
        output = command(
            *f"experiment behaviours --quick --model demo --data {DATA}".split(),
            "--output",
            place,
        )
        (place / "output.txt").write_text(output)

    return built_once("several-behaviours", build)


def test_the_quick_run_shows_all_five_behaviours_in_tables_and_plots(quick: Path) -> None:
    result = Result.read(quick)
    output = " ".join((quick / "output.txt").read_text().split())
    tables = {}
    for section in result.sections:
        assert all(paragraph in output for paragraph in section.paragraphs)
        tables |= {table.title: table for table in section.tables}
    shown = ["myopia", "wealth seeking", "sycophancy", "agreeableness", "anti-immigration"]
    for layer in (10, 15):
        paper = f"; the paper's, of LLaMA-2-7B-chat at layer {layer}, beside it"
        for title in (
            f"Matching score at layer {layer}{paper}",
            f"Matching probability at layer {layer}",
        ):
            assert tables[title].columns == ["steering", *shown, "mean change"]
    assert [row[0] for row in tables["Mean differences of the pairs' last tokens"].rows] == shown
    assert len(tables["5 continuations of at most 16 tokens"].rows) == 1 + 2 * 5 + 2
    pictures = {figure.name for section in result.sections for figure in section.figures}
    for layer in (10, 15):
        assert {f"single_steering_layer_{layer}", f"all_results_layer_{layer}"} <= pictures
    assert {
        "simultaneous_steering",
        "multi_steering_activation_distributions",
        "interactions",
    } <= pictures
    assert result.facts["layers"]["at_once"]["anti_immigration"] == 15
    assert str(quick) not in (quick / "outcome.json").read_text()


def test_the_quick_runs_answers_equal_hooks_and_its_baseline_text_the_unsteered_model(
    quick: Path, demo
) -> None:
    asked = read_behaviours(BEHAVIOURS, DATA, Protocol.quick(), 13)[3].test
    vector = SteeringVector.load(quick / "vectors" / "agreeableness.safetensors")
    first, *records = (
        json.loads(line)
        for line in (quick / "records" / "test-agreeableness.jsonl").read_text().splitlines()
    )
    assert first["task"]["items"] == len(asked)
    seen = 0
    for record in records:
        if [*record["steering"]] != ["agreeableness"]:
            continue
        [(layer, c)] = record["steering"]["agreeableness"].items()
        with hooked(demo.model.model, [(vector, c, [int(layer)])]):
            alone_asked = matching_scores(demo.model, demo.tokenizer, asked)
        assert record["items"]["answers"] == alone_asked.answers
        assert record["scores"]["probability"] == pytest.approx(alone_asked.probability, abs=1e-3)
        seen += 1
    assert seen == 4  # two layers, added and subtracted


def test_generated_texts_are_in_the_records_with_their_perplexity(quick: Path, demo) -> None:
    _, *records = (quick / "records" / "continuations.jsonl").read_text().splitlines()
    plain, *steered = map(json.loads, records)
    assert plain["steering"] == {}
    own = plain["items"]
    assert len(own["texts"]) == 5
    assert any(other["items"]["texts"] != own["texts"] for other in steered)
    text, surprise, tokens = (own[name][0] for name in ("texts", "surprise", "tokens"))
    assert tokens == len(demo.tokenizer(text)["input_ids"])
    assert 0 < surprise / tokens < math.log(50)  # greedy text is likely
