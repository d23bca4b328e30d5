"""Several behaviours: chosen on one part, tested on another, equal when run again or resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plain_hooks import hooked
from question_files import NAMES
from result_files import files_in
from transformers import AutoTokenizer

import faststeer
from faststeer import SteeringVector
from faststeer.evaluate.matching import matching_scores
from faststeer.evaluate.records import key_of
from faststeer.experiments import Result, Table
from faststeer.experiments.settings import (
    ADD,
    DIRECTIONS,
    VARIANTS,
    Place,
    alone,
    at_once,
    combined,
)
from faststeer.experiments.several_behaviours import Protocol, read_behaviours, several_behaviours

SHOWN = ["myopia", "agreeableness"]
TINY = Protocol(
    train=6,
    items=5,
    items_at_once=3,
    rounds=1,
    layers=(10, 15),
    coefficients=(-8.0, -2.0, 2.0, 8.0),
    at_once=(-2.0, 0.0, 2.0),
    text_tokens=24,
    prompts=2,
    new_tokens=4,
)
TEXTS = ["well, well, and so it is", "one two three four", "aaaaaaaaaaaa", "it is as it was"]


@pytest.fixture(scope="module")
def model(make_tiny):
    """Return a model that often answers A or B."""
    model = make_tiny(layers=8)
    with torch.no_grad():
        model.lm_head.weight[[ord("A"), ord("B")]] *= 8
    return model


@pytest.fixture(scope="module")
def run(model, tiny_folder: Path, questions: Path) -> Callable[[Path], Result]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)

    def once(output: Path) -> Result:
        asked = read_behaviours(NAMES, questions, TINY, 13)
        how = {"protocol": TINY, "text_source": "a few words", "progress": False}
        return several_behaviours(model, tokenizer, asked, TEXTS, output, **how)

    return once


@pytest.fixture(scope="module")
def done(run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    run(folder)
    return folder


def test_two_runs_write_equal_files(run, done: Path, tmp_path: Path) -> None:
    run(tmp_path)
    assert files_in(tmp_path) == files_in(done)


def test_the_findings_have_the_numbers_of_the_tables(done: Path) -> None:
    result = Result.read(done)
    assert result.findings is result.sections[0]
    alone_and_combined, at_once_all = result.findings.paragraphs[:2], result.findings.paragraphs[2]
    tables = {own.title: own for section in result.evidence for own in section.tables}
    layers = [int(own) for own in result.facts["layers"]["tested"]]
    for number, layer in enumerate(layers):
        rows = tables[f"Matching probability at layer {layer}"].rows
        [moved] = [row[1:-1] for row in rows if row[0] == "add − subtract"]
        clear = sum(float(cell.split("[")[1].split(",")[0]) > 0 for cell in moved)
        sentence = alone_and_combined[0].split(". ")[number]
        assert f"One vector at layer {layer}," in sentence
        assert f" {clear} of {len(NAMES)} behaviours" in sentence
        changes = {row[0]: row[-1] for row in rows if row[0].startswith("combined: ")}
        best = max(changes, key=lambda name: float(changes[name].split()[0]))
        sentence = alone_and_combined[1].split(". Of")[number]
        assert f"{best.removeprefix('combined: ')} raises" in sentence
        assert changes[best] in sentence
    rows = tables["Matching probability over the global coefficient"].rows
    assert any(f"coefficient {row[0]}, " in at_once_all and row[-3] in at_once_all for row in rows)


def test_an_interrupted_run_resumes_and_writes_the_same_files(
    run, done: Path, tmp_path: Path
) -> None:
    whole = files_in(done)
    folder = tmp_path / "cut off"
    shutil.copytree(done, folder)
    shutil.rmtree(folder / "figures")
    for name in ("outcome.json", "records/test-text.jsonl"):
        (folder / name).unlink()
    for name in ("test-agreeableness", "at-once-myopic", "continuations"):
        path = folder / "records" / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run(folder)
    assert files_in(folder) == whole


def test_a_steered_model_is_measured_unsteered_and_its_steering_restored(
    run, done: Path, tmp_path: Path, model
) -> None:
    with faststeer.patch(model) as patched:
        mine = patched.steer(SteeringVector("mine", {2: torch.full((64,), 3.0)}))
        run(tmp_path)
        assert [handle.name for handle in patched.handles] == ["mine"]
        assert files_in(tmp_path) == files_in(done)
        mine.remove()
        patched.steer(SteeringVector("myopic", {2: torch.ones(64)}))
        with pytest.raises(ValueError, match=r"vectors named \['myopic'\] steer the model already"):
            run(tmp_path)


def test_vectors_of_other_pairs_are_extracted_again(
    run, done: Path, tmp_path: Path, model, tiny_folder: Path, questions: Path
) -> None:
    shutil.copytree(done / "vectors", tmp_path / "vectors")
    path = tmp_path / "vectors" / "myopic.safetensors"
    vector = SteeringVector.load(path)
    SteeringVector("myopic", (vector * 2).directions, metadata={"pairs_sha256": "x"}).save(path)
    run(tmp_path)
    assert files_in(tmp_path / "vectors") == files_in(done / "vectors")


def test_a_combined_vector_answers_like_the_weighted_sum_of_the_vectors(
    done: Path, model, tiny_folder: Path, questions: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    vectors = [SteeringVector.load(done / "vectors" / f"{name}.safetensors") for name in NAMES]
    amounts = {
        Place(name, 3, direction): 2.0 + number if direction == ADD else -3.0 - number
        for number, name in enumerate(NAMES)
        for direction in DIRECTIONS
    }
    by_hand = {
        "mean, unweighted, add": (0.5, 0.5),
        "mean, unweighted, subtract": (-0.5, -0.5),
        "mean, weighted, add": (1.0, 1.5),
        "mean, weighted, subtract": (-1.5, -2.0),
        "sum, unweighted, add": (1.0, 1.0),
        "sum, unweighted, subtract": (-1.0, -1.0),
        "sum, weighted, add": (2.0, 3.0),
        "sum, weighted, subtract": (-3.0, -4.0),
    }
    found = {one.shown: combined(one, 3, amounts) for one in VARIANTS}
    assert found == {
        shown: {name: {3: c} for name, c in zip(NAMES, weights, strict=True)}
        for shown, weights in by_hand.items()
    }
    summed = vectors[0] * 1.0 + vectors[1] * 1.0
    choices = read_behaviours(NAMES, questions, TINY, 13)[0].test
    with hooked(model.model, [(summed, 1.0, [3])]):
        alone_asked = matching_scores(model, tokenizer, choices)
    records = (done / "records" / "test-myopic.jsonl").read_text().splitlines()[1:]
    setting = key_of({name: {3: 1.0} for name in NAMES})
    [record] = [r for r in map(json.loads, records) if key_of(r["steering"]) == setting]
    assert record["items"]["answers"] == alone_asked.answers
    assert record["items"]["log_other"] == pytest.approx(alone_asked.log_other.tolist(), abs=1e-4)


@pytest.fixture(scope="module")
def tables(done: Path) -> dict[str, Table]:
    sections = Result.read(done).sections
    return {table.title: table for section in sections for table in section.tables}


def records_of(done: Path, file: str) -> dict[str, dict]:
    lines = (done / "records" / f"{file}.jsonl").read_text().splitlines()[1:]
    return {key_of(record["steering"]): record for record in map(json.loads, lines)}


def cells(table: Table, row: str) -> list[float]:
    """Return the numbers at the start of a row's cells."""
    [found] = [own for own in table.rows if own[0] == row]
    return [float(str(cell).split()[0]) for cell in found[1:]]


@pytest.mark.parametrize(
    ("measure", "title"),
    [
        (
            "score",
            "Matching score at layer 3; the paper's, of LLaMA-2-7B-chat at layer 15, beside it",
        ),
        ("probability", "Matching probability at layer 3"),
    ],
)
def test_tables_show_the_scores_of_the_tested_records(
    done: Path, tables: dict[str, Table], measure: str, title: str
) -> None:
    chosen = {row[0]: row for row in tables["Coefficients chosen on the validation part"].rows}
    columns = tables["Coefficients chosen on the validation part"].columns
    found: dict[str, list[float]] = {"default": [], "subtract": [], "add": []}
    for name, shown in zip(NAMES, SHOWN, strict=True):
        records = records_of(done, f"test-{name}")
        found["default"].append(records[key_of({})]["scores"][measure])
        for direction in ("subtract", "add"):
            coefficient = float(chosen[shown][columns.index(f"layer 3: {direction}")])
            record = records[key_of(alone(name, 3, coefficient))]
            found[direction].append(record["scores"][measure])
    for kind, values in found.items():
        moved = [own - before for own, before in zip(values, found["default"], strict=True)]
        mean = sum(moved) / len(moved)
        assert cells(tables[title], kind) == pytest.approx([*values, mean], abs=6e-4)
    difference = [a - b for a, b in zip(found["add"], found["subtract"], strict=True)]
    assert cells(tables[title], "add − subtract")[:2] == pytest.approx(difference, abs=6e-4)
    effects = tables[f"Change of the matching {measure}: add the vector of the row"]
    own_effects = [cells(effects, shown)[number] for number, shown in enumerate(SHOWN)]
    moved = [a - b for a, b in zip(found["add"], found["default"], strict=True)]
    assert own_effects == pytest.approx(moved, abs=6e-4)


def test_all_vectors_at_once_are_listed_per_global_coefficient_with_the_accuracy_on_text(
    done: Path, tables: dict[str, Table]
) -> None:
    table = tables["Matching probability over the global coefficient"]
    layers = Result.read(done).facts["layers"]["at_once"]
    text = records_of(done, "test-text")
    by_name = [records_of(done, f"test-{name}") for name in NAMES]
    assert [row[0] for row in table.rows] == ["-2", "0", "+2"]
    for row in table.rows:
        key = key_of(at_once(layers, dict.fromkeys(NAMES, float(row[0]))))
        expected = [records[key]["scores"]["probability"] for records in by_name]
        found = cells(table, row[0])
        assert found[:2] == pytest.approx(expected, abs=6e-4)
        assert found[3] == pytest.approx(text[key]["scores"]["text"]["accuracy"], abs=6e-4)


def test_generated_texts_are_listed_with_their_repetition_and_perplexity(
    done: Path, tables: dict[str, Table]
) -> None:
    records = records_of(done, "continuations")
    rows = tables["2 continuations of at most 4 tokens"].rows
    assert rows[0][0] == "unsteered"
    assert len(rows) == 1 + 2 * len(NAMES) + 2
    plain = records[key_of({})]
    assert float(str(rows[0][2]).split()[0]) == pytest.approx(
        plain["scores"]["perplexity"], abs=0.06
    )
    texts = [row[2] for row in tables["Two texts per setting"].rows]
    assert texts[:2] == [" ".join(text.split()) for text in plain["items"]["texts"]]
    assert len(texts) == 2 * len(rows)
