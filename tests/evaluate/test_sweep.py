"""A sweep equals one setting at a time, stops like the paper's, and resumes."""

from __future__ import annotations

import json
import re

import pytest
import torch
from plain_hooks import random_vector

import faststeer
from faststeer.data.questions import Choice
from faststeer.evaluate.matching import Matching, matching_scores
from faststeer.evaluate.next_token import token_scores
from faststeer.evaluate.records import Records, key_of
from faststeer.evaluate.sweeping import grid, measure_lines, sweep
from faststeer.evaluate.tasks import ChoicesTask, DocumentsTask, Subject, Verdict

CHOICES = [Choice(f"Is it {n * n}? (", *("AB" if n % 3 else "BA")) for n in range(12)]
LETTERS = DocumentsTask(
    {"letters": ["aaaaaaa" * (1 + n % 3) for n in range(6)], "prose": ["well, well", "so it is"]},
    target="letters",
    max_length=15,
)
COEFFICIENTS = [-8.0, -2.0, -1.0, 1.0, 2.0, 8.0]


@pytest.fixture
def answering(make_tiny):
    """Return a model that often answers A, B or C and makes repeated letters likely."""
    model = make_tiny()
    with torch.no_grad():
        model.lm_head.weight[[ord("A"), ord("B"), ord("C")]] *= 8
        model.lm_head.weight[ord("a")] = 0
        model.lm_head.weight[:256] *= 2
    return model


@pytest.fixture
def vectors() -> list[faststeer.SteeringVector]:
    return [random_vector("v", range(4)), random_vector("w", range(4), seed=3)]


GO = Verdict.CONTINUE


def run(model, tokenizer, task, vectors, output, **how):
    how = {"layers": [1, 2], "coefficients": COEFFICIENTS, "progress": False} | how
    return sweep(model, tokenizer, task, vectors, output=output, **how)


def test_a_sweep_gives_the_results_of_one_setting_at_a_time(
    answering, byte_tokenizer, vectors, tmp_path
) -> None:
    task = ChoicesTask("letters", CHOICES)
    records = run(answering, byte_tokenizer, task, vectors, tmp_path / "a", batch_size=5)
    documents = run(answering, byte_tokenizer, LETTERS, vectors, tmp_path / "b", batch_size=4)
    assert len(records) > 8
    with faststeer.patch(answering) as patched:
        for vector in vectors:
            patched.steer(vector)
        for record in records:
            row = {n: {int(at): c for at, c in w.items()} for n, w in record["steering"].items()}
            with patched.rows([row]):
                alone = matching_scores(answering, byte_tokenizer, CHOICES)
            assert record["scores"]["score"] == alone.score
            assert record["scores"]["faulty"] == alone.faulty
            assert record["items"]["answers"] == alone.answers
        for record in documents:
            row = {n: {int(at): c for at, c in w.items()} for n, w in record["steering"].items()}
            for name, texts in LETTERS.sets.items():
                with patched.rows([row]):
                    alone = token_scores(answering, byte_tokenizer, texts, max_length=15)
                assert record["scores"][name]["accuracy"] == alone.accuracy
                assert record["scores"][name]["perplexity"] == pytest.approx(alone.perplexity)
                assert record["items"][name]["top10"] == alone.top10.tolist()


def test_custom_lines_may_steer_with_several_vectors_at_several_layers(
    answering, byte_tokenizer, vectors, tmp_path
) -> None:
    lines = [[{"v": {1: c}, "w": {2: -c, 3: c}} for c in (0.5, 1.0, 2.0)], [{"w": {0: 3.0}}]]
    with faststeer.patch(answering) as patched:
        for vector in vectors:
            patched.steer(vector)
        records = Records(tmp_path / "results.jsonl", {"mine": 1})
        subject = Subject(patched, answering, byte_tokenizer)
        found = measure_lines(subject, ChoicesTask("letters", CHOICES), lines, records)
        assert [key_of(own["steering"]) for own in found] == [
            key_of(setting) for setting in ({}, *lines[0], *lines[1])
        ]
        for own, setting in zip(found[1:], lines[0] + lines[1], strict=True):
            with patched.rows([setting]):
                alone = matching_scores(answering, byte_tokenizer, CHOICES)
            assert own["items"]["answers"] == alone.answers
            assert Matching.from_items(own["items"]).score == alone.score


def test_a_line_ends_at_its_verdict_even_if_more_was_measured(
    answering, byte_tokenizer, vectors, tmp_path
) -> None:
    class Ending(ChoicesTask):
        def verdict(self, record, unsteered) -> Verdict:
            scores = record["scores"]
            return {1: Verdict.STOP, 2: Verdict.SKIP_ONE}.get(scores["faulty"] % 4, GO)

    task = Ending("letters", CHOICES)
    found = run(answering, byte_tokenizer, task, vectors, tmp_path)
    measured = {key_of(record["steering"]): record for record in found}
    assert len(measured) == len(found)
    unsteered = measured.pop(key_of({}))
    verdicts = set()
    for line in grid(vectors, [1, 2], COEFFICIENTS):
        left = list(line)
        while left:
            record = measured.pop(key_of(left.pop(0)))
            verdict = task.verdict(record, unsteered)
            verdicts.add(verdict)
            left = [] if verdict is Verdict.STOP else left[verdict is Verdict.SKIP_ONE :]
    assert measured == {}
    assert verdicts == set(Verdict)


def test_the_stopping_rules_are_the_papers() -> None:
    task = ChoicesTask("letters", CHOICES * 20)  # 240 choices, 5 % are 12

    def of(faulty: int, collapsed: bool = False) -> dict:
        return {"scores": {"faulty": faulty, "collapsed": collapsed}}

    assert task.verdict(of(12), of(0)) is GO
    assert task.verdict(of(13), of(0)) is Verdict.STOP
    assert task.verdict(of(0, True), of(0)) is Verdict.STOP
    assert task.verdict(of(13, True), of(13, True)) is GO  # so does the unsteered model

    def at(relative: float | None) -> Verdict:
        return LETTERS.verdict({"scores": {"letters": {"relative": relative}}}, {})

    assert [at(share) for share in (0.049, 0.05, 0.149, 0.15, 1.2, None)] == [
        Verdict.STOP,
        Verdict.SKIP_ONE,
        Verdict.SKIP_ONE,
        GO,
        GO,
        GO,
    ]


@pytest.mark.parametrize(
    "task", [ChoicesTask("letters", CHOICES), LETTERS], ids=["choices", "docs"]
)
def test_two_runs_write_equal_files_and_an_interrupted_one_the_same(
    answering, byte_tokenizer, vectors, tmp_path, task
) -> None:
    run(answering, byte_tokenizer, task, vectors, tmp_path / "once")
    run(answering, byte_tokenizer, task, vectors, tmp_path / "twice")
    whole = (tmp_path / "once" / "results.jsonl").read_bytes()
    summary = (tmp_path / "once" / "summary.json").read_bytes()
    assert (tmp_path / "twice" / "results.jsonl").read_bytes() == whole
    assert (tmp_path / "twice" / "summary.json").read_bytes() == summary
    for cut in (0, 40, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        folder = tmp_path / f"cut at {cut}"
        folder.mkdir()
        (folder / "results.jsonl").write_bytes(whole[:cut])
        run(answering, byte_tokenizer, task, vectors, folder)
        assert (folder / "results.jsonl").read_bytes() == whole
        assert (folder / "summary.json").read_bytes() == summary


def test_a_finished_sweep_measures_nothing_again_and_more_layers_only_these(
    answering, byte_tokenizer, vectors, tmp_path, monkeypatch
) -> None:
    task = ChoicesTask("letters", CHOICES)
    measured = []
    measure = ChoicesTask.measure

    def counting(self, subject, settings, advance):
        measured.extend(map(key_of, settings))
        return measure(self, subject, settings, advance)

    monkeypatch.setattr(ChoicesTask, "measure", counting)
    run(answering, byte_tokenizer, task, vectors, tmp_path, layers=[1])
    first = len(measured)
    run(answering, byte_tokenizer, task, vectors, tmp_path, layers=[1])
    assert len(measured) == first
    run(answering, byte_tokenizer, task, vectors, tmp_path, layers=[3])
    assert all('"3"' in key for key in measured[first:])
    assert len(measured) > first


def test_a_file_of_another_sweep_is_refused_before_anything_is_measured(
    answering, byte_tokenizer, vectors, tmp_path
) -> None:
    run(answering, byte_tokenizer, ChoicesTask("letters", CHOICES), vectors, tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    other = random_vector("v", range(4), seed=9)
    for task, those, name in [
        (ChoicesTask("letters", CHOICES[:-1]), vectors, "task"),
        (LETTERS, vectors, "task"),
        (ChoicesTask("letters", CHOICES), [other, vectors[1]], "vectors"),
    ]:
        with pytest.raises(ValueError, match=f"results.jsonl is of another sweep: its {name} is"):
            run(answering, byte_tokenizer, task, those, tmp_path)
    with torch.no_grad():
        answering.lm_head.weight[0, 0] += 1
    with pytest.raises(ValueError, match="of another sweep: its model is"):
        run(answering, byte_tokenizer, ChoicesTask("letters", CHOICES), vectors, tmp_path)
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_steering_without_finite_results_ends_a_line_and_not_the_sweep(
    make_tiny, byte_tokenizer, tmp_path
) -> None:
    model = make_tiny(dtype=torch.float16)
    far = random_vector("far", range(4)) * 1e7  # not representable in float16 even at coefficient 1
    found = run(model, byte_tokenizer, LETTERS, [far], tmp_path, coefficients=[1e-9, 1.0])
    scores = {key_of(own["steering"]): own["scores"]["letters"] for own in found}
    assert scores[key_of({"far": {1: 1e-9}})]["perplexity"] > 0
    broken = scores[key_of({"far": {1: 1.0}})]
    assert (broken["accuracy"], broken["perplexity"], broken["kl"]) == (0.0, None, None)
    for line in (tmp_path / "results.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)  # no NaN, which is not JSON


def test_a_target_that_is_not_a_known_set_is_refused_before_anything_is_measured(
    answering, byte_tokenizer, vectors, tmp_path
) -> None:
    task = DocumentsTask(LETTERS.sets, target="lettres")
    with pytest.raises(ValueError, match="target 'lettres' is not a set; there are letters, prose"):
        run(answering, byte_tokenizer, task, vectors, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_summary_states_the_settings_of_the_sweep(
    answering, byte_tokenizer, vectors, tmp_path
) -> None:
    records = run(
        answering, byte_tokenizer, ChoicesTask("letters", CHOICES), vectors, tmp_path, seed=7
    )
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["seed"] == 7
    assert summary["versions"]["torch"] == torch.__version__
    hashes = [summary["task"]["sha256"], summary["model"]["sha256"], *summary["vectors"].values()]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes)
    assert [own["scores"] for own in summary["results"]] == [own["scores"] for own in records]


def test_the_model_is_restored_even_if_it_was_steered_before(
    answering, byte_tokenizer, vectors, tmp_path
) -> None:
    task = ChoicesTask("letters", CHOICES)
    plain = type(answering.model.layers[0])
    unsteered = run(answering, byte_tokenizer, task, vectors, tmp_path / "a")[0]
    assert type(answering.model.layers[0]) is plain
    with faststeer.patch(answering) as patched:
        own = patched.steer(random_vector("own", range(4)), coefficient=5.0)
        assert run(answering, byte_tokenizer, task, vectors, tmp_path / "b")[0] == unsteered
        assert [handle.name for handle in patched.handles] == ["own"]
        assert own.coefficient == 5.0
        with pytest.raises(ValueError, match=r"vectors named \['own'\] steer the model already"):
            run(answering, byte_tokenizer, task, [own.vector], tmp_path / "c")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"coefficients": [0.0, 1.0]}, "coefficients [0.0, 1.0]: expected at least one"),
        ({"coefficients": [1.0, float("nan")]}, "a coefficient is nan; expected a finite number"),
        ({"coefficients": []}, "coefficients []: expected at least one, each once, and not 0"),
        ({"layers": [4]}, "layer 4 is out of range: the model has 0 to 3"),
        ({"layers": [3]}, "'short' has no direction for layer 3; it has [0, 1]"),
    ],
)
def test_an_invalid_grid_is_refused_and_nothing_written(
    answering, byte_tokenizer, tmp_path, how, message
) -> None:
    short = random_vector("short", range(2))
    with pytest.raises(ValueError, match=re.escape(message)):
        run(answering, byte_tokenizer, LETTERS, [short], tmp_path / "a", **how)
    assert not (tmp_path / "a").exists()


def test_texts_of_several_sets_may_be_checked_for_a_custom_target(
    answering, byte_tokenizer
) -> None:
    own = DocumentsTask({"letters": ["aaa"], "prose": ["so", ""]}, target="both")
    with faststeer.patch(answering) as patched:
        subject = Subject(patched, answering, byte_tokenizer)
        with pytest.raises(ValueError, match="text 1 has 1 tokens, of which none is predicted"):
            own.check_texts(subject)
        DocumentsTask(LETTERS.sets, target="both").check_texts(subject)
