"""Questions of several behaviours: their parts, and mistakes that are reported first."""

from __future__ import annotations

from pathlib import Path

import pytest
from question_files import NAMES
from typer.testing import CliRunner

from faststeer.cli.main import app
from faststeer.experiments.several_behaviours import Protocol, read_behaviours


def test_parts_do_not_overlap_and_have_the_sizes_of_the_protocol(questions: Path) -> None:
    [own, _] = read_behaviours(NAMES, questions, Protocol(), 13)
    parts = [own.train, own.validation, own.test]
    some = [len(part) for part in parts]
    assert some[:2] == [500, 50]
    assert len({choice.question for part in parts for choice in part}) == sum(some)
    for part in parts[1:]:  # alternating
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
        "wealth_seeking: choice 0: after 'Is it 114? (' the option 'Yes' is not a single token of",
    ),
    (f"{TWO} --paper", "give either --quick or --paper"),
    (f"{TWO} --layers 1,9", "layer 9 is out of range: the model has 0 to 3"),
    (f"{TWO} --coefficients 1,2", "coefficients [1.0, 2.0]: expected one above 0, to add a"),
    (f"{TWO} --coefficients=-1,x", "--coefficients '-1,x': expected numbers such as"),
    (f"{TWO} --text no.jsonl", "no.jsonl: no such file or folder"),
    (f"{TWO} --text one.txt", "got 1 general texts; expected at least two"),
    (f"{TWO} --output one.txt", "one.txt is a file; expected a folder"),
    (f"{TWO} --model random:tiny", "random:tiny has random weights and no tokenizer; give a"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[m[1][:30] for m in MISTAKES])
def test_a_user_error_is_reported_before_anything_is_written(
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
    error = CliRunner().invoke(app, command.split()).exception
    assert isinstance(error, (ValueError, OSError))
    assert message in str(error)
    assert sorted(tmp_path.iterdir()) == before
