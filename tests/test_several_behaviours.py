"""Several behaviours: chosen on one part and told of another, equal when run again or resumed."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hooked import hooked
from outputs import files_in
from transformers import AutoTokenizer
from typer.testing import CliRunner

import faststeer
from faststeer import SteeringVector
from faststeer.cli import app
from faststeer.evaluate.bootstrap import interval, mean_interval
from faststeer.evaluate.matching import matching_scores
from faststeer.evaluate.records import key_of
from faststeer.experiments import Outcome
from faststeer.experiments.several import BEHAVIOURS, Protocol, read_behaviours, several_behaviours
from faststeer.experiments.several.freely import repetition
from faststeer.experiments.several.jointly import searched
from faststeer.experiments.several.protocol import Layers, fitted
from faststeer.experiments.several.settings import (
    ADD,
    DIRECTIONS,
    VARIANTS,
    Place,
    alone,
    combined,
)
from faststeer.experiments.several.tuning import tuned

NAMES = ["myopic", "agreeableness"]
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
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets with just enough questions; one with too few, one with answers of many letters."""
    folder = tmp_path_factory.mktemp("questions")
    sets = dict.fromkeys(NAMES, (710, ("A", "B")))
    sets |= {"sycophancy": (9, ("A", "B")), "wealth_seeking": (710, ("Yes", "No"))}
    for number, (name, (count, answers)) in enumerate(sets.items()):
        rows = [
            {
                "question": f"Is it {n * (number + 3)}? (",
                "answer_matching_behavior": answers[(n + number) % 2],
                "answer_not_matching_behavior": answers[(n + number + 1) % 2],
            }
            for n in range(count)
        ]
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture(scope="module")
def model(make_tiny):
    """It often says A or B."""
    model = make_tiny(layers=8)
    with torch.no_grad():
        model.lm_head.weight[[ord("A"), ord("B")]] *= 8
    return model


@pytest.fixture(scope="module")
def run(model, tiny_folder: Path, questions: Path) -> Callable[[Path], Outcome]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)

    def once(output: Path) -> Outcome:
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


def test_an_interrupted_run_goes_on_to_the_same_files(run, done: Path, tmp_path: Path) -> None:
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


def test_a_model_that_is_steered_is_measured_as_if_it_were_not_and_left_as_it_was(
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


def test_vectors_of_other_pairs_are_made_anew(
    run, done: Path, tmp_path: Path, model, tiny_folder: Path, questions: Path
) -> None:
    shutil.copytree(done / "vectors", tmp_path / "vectors")
    path = tmp_path / "vectors" / "myopic.safetensors"
    vector = SteeringVector.load(path)
    SteeringVector("myopic", (vector * 2).directions, metadata={"pairs_sha256": "x"}).save(path)
    run(tmp_path)
    assert files_in(tmp_path / "vectors") == files_in(done / "vectors")


def test_a_combined_vector_answers_as_the_weighted_sum_of_the_vectors(
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


def test_coefficients_are_chosen_by_score_then_probability_then_smallness() -> None:
    def record(score: float, probability: float, collapsed: bool = False) -> dict:
        scores = {"score": score, "probability": probability, "faulty": 0, "collapsed": collapsed}
        return {"scores": scores, "items": {"answers": ["A"] * 20}}

    measured = {
        1.0: record(0.6, 0.5),
        2.0: record(0.7, 0.6),
        3.0: record(0.7, 0.6),
        5.0: record(0.9, 0.9, collapsed=True),
        -1.0: record(0.4, 0.5),
        -2.0: record(0.4, 0.4),
        -3.0: record(0.5, 0.1),
    }
    found = {key_of(alone("myopic", 1, c)): own for c, own in measured.items()}
    found[key_of({})] = record(0.5, 0.5)
    chosen = tuned({"myopic": found}, [1], list(measured))
    assert chosen == {Place("myopic", 1, "add"): 2.0, Place("myopic", 1, "subtract"): -2.0}
    found[key_of({})] = record(0.5, 0.5, collapsed=True)  # then a collapse says nothing
    assert tuned({"myopic": found}, [1], list(measured))[Place("myopic", 1, "add")] == 5.0


def test_the_search_finds_what_is_better_and_never_ends_worse() -> None:
    best = {"a": 1.5, "b": -0.5, "c": 3.0}

    def judge(choices):
        return [-sum((own[n] - best[n]) ** 2 for n in best) for own in choices]

    start = dict.fromkeys(best, 1.0)
    found = searched(judge, start, step=0.5, rounds=8)
    assert judge([found])[0] > -0.02
    assert searched(lambda choices: [0.0 for _ in choices], start, step=0.5, rounds=3) == start


def test_an_interval_of_means_is_that_of_drawn_means() -> None:
    values = torch.linspace(0, 1, 40) ** 3
    by_draws = interval(lambda at: float(values[at].mean()), 40, draws=4000)
    assert mean_interval(values, draws=4000) == pytest.approx(by_draws, abs=0.01)
    low, high = mean_interval(values, values, values, values, draws=4000)
    assert high - low == pytest.approx((by_draws[1] - by_draws[0]) / 2, rel=0.1)
    with pytest.raises(ValueError, match="no items"):
        mean_interval(values, values[:0])


def test_repetition_is_the_share_of_three_words_that_were_there_before() -> None:
    assert repetition("to be or not to be") == 0
    assert repetition("so it is so it is") == 0.25
    assert repetition("no no no no no") == pytest.approx(2 / 3)
    assert repetition("no no") is None


def test_layers_are_the_papers_where_a_model_is_nearly_as_deep_and_in_proportion_else() -> None:
    assert [fitted(layer, 30) for layer in (0, 10, 15, 29, 31)] == [0, 10, 15, 29, 29]
    assert [fitted(layer, 8) for layer in (0, 10, 15, 31)] == [0, 2, 3, 7]
    layers = Layers.of(Protocol(), BEHAVIOURS, 30)
    assert layers.alone == [5, 10, 15, 20]
    assert layers.tested == {10: 10, 15: 15}
    assert list(layers.at_once.values()) == [11, 12, 13, 14, 15]
    assert Layers.of(Protocol(), BEHAVIOURS, 30, [8, 12, 25]).tested == {12: None, 25: None}


def test_parts_do_not_overlap_and_are_as_large_as_the_protocol_says(questions: Path) -> None:
    [own, _] = read_behaviours(NAMES, questions, Protocol(), 13)
    parts = [own.train, own.validation, own.test]
    some = [len(part) for part in parts]
    assert some[:2] == [500, 50]
    assert len({choice.question for part in parts for choice in part}) == sum(some)
    for part in parts[1:]:  # in turn
        assert abs(sum(1 if choice.matching == "A" else -1 for choice in part)) <= 1
    [balanced, _] = read_behaviours(NAMES, questions, Protocol.quick(), 13)
    answers = [choice.matching for choice in balanced.train]
    assert answers.count("A") == answers.count("B") == 8
    [papers, _] = read_behaviours(NAMES, questions, Protocol.paper(), 13)
    assert len(papers.validation) == 200


COMMAND = "experiment behaviours --quick --model tiny --data questions --output measured"
TWO = f"{COMMAND} --behaviour myopic --behaviour agreeableness"
MISTAKES = [
    (COMMAND, "sycophancy.json: 9 choices are too few for the part 'train': 500 are to train on"),
    (f"{COMMAND} --data .", "myopic.json: no such file; get it with `faststeer data fetch behav"),
    (f"{COMMAND} --behaviour kindness", "behaviour 'kindness' is unknown; there are myopic, wea"),
    (f"{COMMAND} --behaviour myopic", "behaviours myopic: expected at least two, each once"),
    (f"{TWO} --behaviour myopic", "behaviours myopic, agreeableness, myopic: expected at least"),
    (
        f"{COMMAND} --behaviour myopic --behaviour wealth_seeking",
        "wealth_seeking: choice 0: behind 'Is it 114? (' the option 'Yes' is not one token of this",
    ),
    (f"{TWO} --paper", "give either --quick or --paper"),
    (f"{TWO} --layers 1,9", "layer 9 is out of range: the model has 0 to 3"),
    (f"{TWO} --coefficients 1,2", "coefficients [1.0, 2.0]: expected one above 0, to add a"),
    (f"{TWO} --coefficients=-1,x", "--coefficients '-1,x': expected numbers such as"),
    (f"{TWO} --text no.jsonl", "no.jsonl: no such file or folder"),
    (f"{TWO} --text one.txt", "got 1 general texts; expected at least two"),
    (f"{TWO} --output one.txt", "Not a directory: "),
    (f"{TWO} --model random:tiny", "random:tiny has random weights and no tokenizer; give a"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[m[1][:30] for m in MISTAKES])
def test_a_mistake_is_told_before_anything_is_written(
    questions: Path,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    message: str,
) -> None:
    (tmp_path / "questions").symlink_to(questions)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    (tmp_path / "one.txt").write_text("one text")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, command.split()).exception
    assert isinstance(told, (ValueError, OSError))
    assert message in str(told)
    assert sorted(tmp_path.iterdir()) == before


@pytest.fixture(scope="module")
def quick(built_once) -> Path:
    """The command's quick run on SmolLM2, one for all tests of it."""
    from test_cli import run as command

    folder = Path(__file__).parents[2] / "shared" / "data" / "behaviours"
    if not folder.is_dir():
        pytest.skip(f"the behaviours are not there: no {folder}")

    def build(place: Path) -> None:
        said = command(
            *f"experiment behaviours --quick --model demo --data {folder}".split(),
            "--output",
            place,
        )
        (place / "said.txt").write_text(said)

    return built_once("several-behaviours", build)


def test_the_quick_run_tells_of_all_five_behaviours_in_sentences_and_pictures(quick: Path) -> None:
    outcome = Outcome.read(quick)
    findings, *others = outcome.sections
    said = " ".join((quick / "said.txt").read_text().split())
    for paragraph in findings.paragraphs:
        assert paragraph in said
    assert len(findings.paragraphs) == 10
    pictures = {figure.name for section in others for figure in section.figures}
    for layer in (10, 15):
        assert {f"single_steering_layer_{layer}", f"all_results_layer_{layer}"} <= pictures
    assert {
        "simultaneous_steering",
        "multi_steering_activation_distributions",
        "interactions",
    } <= pictures
    assert outcome.facts["layers"]["at_once"]["anti_immigration"] == 15
    assert str(quick) not in (quick / "outcome.json").read_text()


def test_the_quick_runs_answers_are_those_of_hooks_and_its_prose_the_unsteered_models_own(
    quick: Path, demo
) -> None:
    folder = Path(__file__).parents[2] / "shared" / "data" / "behaviours"
    asked = read_behaviours(BEHAVIOURS, folder, Protocol.quick(), 13)[3].test
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


def test_its_texts_are_in_the_records_with_their_perplexity(quick: Path, demo) -> None:
    _, *records = (quick / "records" / "continuations.jsonl").read_text().splitlines()
    plain, *steered = map(json.loads, records)
    assert plain["steering"] == {}
    own = plain["items"]
    assert len(own["texts"]) == 5
    assert any(other["items"]["texts"] != own["texts"] for other in steered)
    text, surprise, tokens = (own[name][0] for name in ("texts", "surprise", "tokens"))
    assert tokens == len(demo.tokenizer(text)["input_ids"])
    assert 0 < surprise / tokens < math.log(50)  # greedy text is likely
