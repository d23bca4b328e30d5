"""Every example runs on the demo's model and shows its documented result."""

import os
import subprocess
import sys

from places import ROOT

EXAMPLES = ROOT / "examples"


def run(name: str) -> str:
    command = [sys.executable, str(EXAMPLES / name)]
    wide = os.environ | {"COLUMNS": "250"}  # tables are not wrapped
    result = subprocess.run(command, env=wide, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_quickstart_prints_three_different_texts() -> None:
    lines = [line for line in run("quickstart.py").splitlines() if line[:2] in {"-2", "+0", "+2"}]
    assert len({line[3:] for line in lines}) == 3


def test_a_learned_vector_beats_the_difference_of_means_on_held_out_completions() -> None:
    scores = [float(line.split()[-1]) for line in run("learn_a_vector.py").splitlines()[-3:]]
    unsteered, mean, learned = scores
    assert learned > mean > unsteered


def test_requests_in_one_batch_get_the_same_answers_as_alone() -> None:
    lines = [line for line in run("per_request_batch.py").splitlines() if line.startswith("user ")]
    assert len(lines) == 8
    assert all(line.endswith("[same alone]") for line in lines)
    changed = [before != after for before, after in zip(lines[:4], lines[4:], strict=True)]
    assert changed == [True, True, False, False]


def test_the_evaluation_harness_scores_a_steered_model_and_shows_the_vector_s_effect() -> None:
    scores = [float(line.split()[1]) for line in run("harness.py").splitlines() if "±" in line]
    unsteered, more, less = scores
    assert less < unsteered < more


def test_two_traits_are_steered_alone_and_together_and_all_tables_shown() -> None:
    output = run("behaviours.py")
    for table in (
        "Each vector alone, on the test part",
        "Matching probability under one combined vector",
        "Matching probability over the global coefficient, each vector at its layer",
        "Added − subtracted at a tax of 5%",
    ):
        assert table in output


def test_steering_away_from_python_costs_text_less_than_python() -> None:
    lines = [line for line in run("broad_skills.py").splitlines() if "coefficient" in line]
    kept = [int(line.split()[-1].rstrip("%")) for line in lines]
    python, text = kept[:3], kept[3:]
    assert python[0] < 90
    assert all(one < other for one, other in zip(python, text, strict=True))
