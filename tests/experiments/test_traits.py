"""Several traits: chosen on one part, tested on another, equal when run again or resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from plain_hooks import hooked
from result_files import files_in
from transformers import AutoTokenizer
from typer.testing import CliRunner

import faststeer
from faststeer import SteeringVector
from faststeer.cli.main import app
from faststeer.data.trait_files import Trait, trait_in
from faststeer.evaluate.continuation_sets import set_scores
from faststeer.experiments import Result
from faststeer.experiments.traits import Protocol, several_traits

NAMES = ["vowels", "digits", "capitals"]
TINY = Protocol(
    depths=(0.25, 0.5, 0.75),
    coefficients=(4.0, 16.0),
    scales=(0.5, 1.0),
    at_once=(4.0,),
    assignments=2,
    randoms=2,
    perplexity=100.0,
    rounds=1,
    items_searched=2,
    text_tokens=24,
    orders=2,
    prompts=2,
    new_tokens=6,
)
TEXTS = ["well, well, and so it is", "one two three four", "aaaaaaaaaaaa", "it is as it was"]
SIDES = {"vowels": ("aeiou", "bcdfg"), "digits": ("12345", "xyzwv"), "capitals": ("ABCDE", "pqrst")}


def trait(name: str) -> dict:
    """Return a trait of letters: each side's texts are made of its own."""
    positive, negative = SIDES[name]

    def words(letters: str, number: int) -> str:
        return " ".join(letters[(number + at) % 5] * (1 + at % 3) for at in range(4))

    def group(number: int, kind: str) -> dict:
        return {
            "prompts": [f"the {kind} {number} {n} is" for n in "abc"],
            "positive": [*positive[:3], positive[3] + positive[4]],
            "negative": [*negative[:3]],
        }

    return {
        "name": name,
        "description": f"Positive: {positive}; negative: {negative}.",
        "positive": positive,
        "negative": negative,
        "pairs": [
            {"positive": words(positive, n), "negative": words(negative, n)} for n in range(5)
        ],
        "validation": [group(n, "left") for n in range(2)],
        "test": [group(n, "right") for n in range(2)],
        "sentences": {
            "positive": ["so " + words(positive, n) for n in range(4)],
            "negative": ["so " + words(negative, n) for n in range(4)],
        },
    }


TRAITS = [trait_in(trait(name), name) for name in NAMES]


@pytest.fixture(scope="module")
def model(make_tiny):
    return make_tiny(layers=8)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path):
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def run(model, tokenizer) -> Callable[..., Result]:
    def once(output: Path, traits: Sequence[Trait] = TRAITS) -> Result:
        how = {"protocol": TINY, "text_source": "a few words", "progress": False}
        return several_traits(model, tokenizer, traits, TEXTS, output, **how)

    return once


@pytest.fixture(scope="module")
def done(run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done")
    run(folder)
    return folder


def tables_of(folder: Path) -> dict[str, list[list]]:
    sections = Result.read(folder).sections
    return {table.title: table.rows for section in sections for table in section.tables}


def starting(tables: dict[str, list[list]], title: str) -> list[list]:
    [rows] = [own for name, own in tables.items() if name.startswith(title)]
    return rows


def test_two_runs_write_equal_files(run, done: Path, tmp_path: Path) -> None:
    run(tmp_path)
    assert files_in(tmp_path) == files_in(done)


def test_an_interrupted_run_resumes_and_writes_the_same_files(
    run, done: Path, tmp_path: Path
) -> None:
    whole = files_in(done)
    folder = tmp_path / "cut off"
    shutil.copytree(done, folder)
    shutil.rmtree(folder / "figures")
    for name in ("outcome.json", "records/test-text.jsonl"):
        (folder / name).unlink()
    for name in ("test-digits", "search", "continuations", "random-vowels"):
        path = folder / "records" / f"{name}.jsonl"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run(folder)
    assert files_in(folder) == whole


def test_scores_are_those_of_plain_hooks_on_the_test_part(done: Path, make_tiny, tokenizer) -> None:
    plain = make_tiny(layers=8)
    layers = json.loads((done / "outcome.json").read_text())["facts"]["layers"]
    rows = starting(tables_of(done), "Each vector alone")
    for own, row in zip(TRAITS, rows, strict=True):
        vector = SteeringVector.load(done / "vectors" / f"{own.name}.safetensors")
        assert row[0] == f"{own.name}: {own.positive} / {own.negative}"
        assert row[1] in layers
        high, low = map(float, row[2].split(", "))
        assert low < 0 < high
        found = []
        for coefficient in (low, 0.0, high):
            with hooked(plain.model, [(vector, coefficient, [row[1]])]):
                found.append(set_scores(plain, tokenizer, own.test).probability)
        shown = [float(cell.split()[0]) for cell in row[3:6]]
        assert shown == pytest.approx(found, abs=6e-4)
        assert float(row[6].split()[0]) == pytest.approx(found[2] - found[0], abs=6e-4)
        assert len(set(shown)) == 3


def test_nothing_is_chosen_on_the_test_part(run, done: Path, tmp_path: Path) -> None:
    """With other test prompts, all that was chosen stays the same."""
    other = [trait(name) for name in NAMES]
    for own in other:
        for group in own["test"]:
            group["prompts"] = [f"{prompt} so" for prompt in group["prompts"]]
    run(tmp_path, [trait_in(own, own["name"]) for own in other])
    before, after = tables_of(done), tables_of(tmp_path)
    [title] = [title for title in before if title.startswith("Each vector alone")]
    assert [row[:3] for row in before[title]] == [row[:3] for row in after[title]]
    assert [row[3:] for row in before[title]] != [row[3:] for row in after[title]]
    assert before["Layers"] == after["Layers"]


def test_every_way_is_compared_at_equal_tax(done: Path) -> None:
    tables = tables_of(done)
    shown = [row[0] for row in tables["Added − subtracted at a tax of 5%"]]
    for kind in ("", ", orthogonal", ", searched"):
        assert f"combined at one layer{kind}" in shown
        assert f"simultaneous, each at its layer{kind}" in shown
    assert "simultaneous, each at its layer, assignment 2" in shown
    assert "simultaneous, each at its layer, one coefficient" in shown
    [variants] = [
        own for title, own in tables.items() if title.startswith("Matching probability u")
    ]
    assert len(variants) == 1 + 8
    [growth] = [own for title, own in tables.items() if title.startswith("Share of the effect")]
    assert [row[0] for row in growth] == [1, 2, 3]
    [generated] = [own for title, own in tables.items() if title.startswith("How the judge reads")]
    assert len(generated) == 1 + 2 * 3 + 4


def test_assignments_use_a_layer_per_trait(done: Path) -> None:
    rows = tables_of(done)["Layers"]
    assignments = [row[1:] for row in rows if row[0].startswith("simultaneous")]
    assert len(assignments) == 2
    assert assignments[0] != assignments[1]
    for layers in assignments:
        assert len(set(layers)) == 3


def test_a_steered_model_is_measured_unsteered_and_its_steering_restored(
    run, done: Path, tmp_path: Path, model
) -> None:
    with faststeer.patch(model) as patched:
        vector = SteeringVector("mine", {2: torch.ones(64)})
        patched.steer(vector, 5.0)
        steered = model(torch.tensor([[1, 2, 3]])).logits
        run(tmp_path)
        assert torch.equal(model(torch.tensor([[1, 2, 3]])).logits, steered)
        assert list(patched.plan.interventions) == ["mine"]
    assert files_in(tmp_path) == files_in(done)


def test_all_figures_are_drawn(done: Path) -> None:
    drawn = {path.name for path in (done / "figures").glob("*.png")}
    names = ("alone", "random", "tax", "growth", "interactions", "generated")
    assert drawn == {f"{name}.png" for name in names}


COMMAND = "experiment behaviours --quick --model tiny --output measured --traits mine.json"
MISTAKES = [
    (f"{COMMAND} --behaviour none", "trait 'none' is not in mine.json; there are vowels, digits"),
    (f"{COMMAND} --behaviour vowels", "traits vowels: expected at least two, of different names"),
    (f"{COMMAND} --balanced --paper", "--paper, --balanced: has no meaning with --data traits"),
    (f"{COMMAND} --chat", "--chat: has no meaning with --data traits"),
    (f"{COMMAND} --data behaviours", "--traits: has no meaning with --data behaviours"),
    (f"{COMMAND} --layers 1,2", "2 layers are too few for 3 traits, each of which steers at a"),
    (f"{COMMAND} --layers 1,2,9", "layer 9 is out of range: the model has 0 to 3"),
    (f"{COMMAND} --coefficients 0,1", "--coefficients: 0 is always measured; expected others"),
    (f"{COMMAND} --items some", "--items 'some': expected a number from 1, or 'all'"),
    (f"{COMMAND} --text one.txt", "got 1 general texts; expected at least two"),
    (f"{COMMAND} --traits no.json", "No such file or directory: 'no.json'"),
    (
        f"{COMMAND} --traits merging.json",
        "test part of digits: prompt 0, 'it is': the cont",
    ),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[m[1][:30] for m in MISTAKES])
def test_a_user_error_is_reported_before_anything_is_written(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    message: str,
) -> None:
    traits = [trait(name) for name in NAMES]
    (tmp_path / "mine.json").write_text(json.dumps(traits))
    traits[1]["test"] = [{"prompts": ["it is"], "positive": ["a", "ab"], "negative": ["c"]}]
    (tmp_path / "merging.json").write_text(json.dumps(traits))
    (tmp_path / "tiny").symlink_to(tiny_folder)
    (tmp_path / "one.txt").write_text("one text")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    error = CliRunner().invoke(app, command.split()).exception
    assert isinstance(error, (ValueError, OSError))
    assert message in str(error)
    assert sorted(tmp_path.iterdir()) == before


def test_shipped_traits_are_shortened_evenly() -> None:
    from faststeer.experiments.traits.experiment import _shortened

    own = Trait.shipped("tense")
    few = _shortened(own, 5, 7)
    assert [prompt.positive for prompt in few.validation] == [
        own.validation[at].positive for at in (0, 5, 10, 15, 20)
    ]
    assert len(few.test) == 5
    assert few.pairs == own.pairs[:7]
    assert _shortened(own, None, None) == own
