"""A user error is one line on standard error and exit code 2, never a traceback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import FASTSTEER, environment, write_pairs

from faststeer import SteeringVector
from faststeer.cli import main


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    """Return a folder of valid and invalid files."""
    write_pairs(tmp_path / "pairs.jsonl", [("good", "bad")])
    write_pairs(tmp_path / "none.jsonl", []).write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"positive": "a", "negative": "b"}\n{"positive": 1}\n')
    SteeringVector("v", {1: torch.ones(64)}).save(tmp_path / "v.safetensors")
    SteeringVector("zero", {0: torch.ones(2)}).save(tmp_path / "zero.safetensors")
    SteeringVector("wide", {1: torch.ones(65)}).save(tmp_path / "wide.safetensors")
    SteeringVector("deep", {9: torch.ones(64)}).save(tmp_path / "deep.safetensors")
    whole = (tmp_path / "v.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-1])
    (tmp_path / "tiny").symlink_to(tiny_folder)
    (tmp_path / "text.jsonl").write_text('{"text": "well, well"}\n')
    (tmp_path / "short.jsonl").write_text('{"text": "x"}\n')
    for name, answers in (("letters", "AB"), ("words", ("Yes", "No"))):
        keys = ("answer_matching_behavior", "answer_not_matching_behavior")
        row = {"question": "Is it (", **dict(zip(keys, answers, strict=True))}
        (tmp_path / f"{name}.json").write_text(json.dumps([row, row]))
    return tmp_path


EXTRACT = "extract --pairs pairs.jsonl --output out.safetensors --model tiny"
GENERATE = "generate --prompt hello --max-new-tokens 1 --model tiny --steer v.safetensors"

SWEEP = "sweep --vector v.safetensors --coefficients=1 --layers 1 --model tiny --output swept"
SWEEP_DOCUMENTS = f"{SWEEP} --documents text=text.jsonl --items 1"
SWEEP_ANSWERS = f"{SWEEP} --behaviour letters --data . --part all"

MISTAKES = [
    (f"{EXTRACT} --pairs bad.jsonl", "bad.jsonl, line 2: expected an object with a text under"),
    (f"{EXTRACT} --pairs no.jsonl", "no.jsonl: no such file; expected JSONL or a JSON array of"),
    (f"{EXTRACT} --pairs none.jsonl", "none.jsonl: has no rows; expected JSONL or a JSON array of"),
    (f"{EXTRACT} --output no/out.safetensors", "no/out.safetensors: the folder no does not exist"),
    (f"{EXTRACT} --output out.gguf", "out.gguf: extract writes .safetensors; `faststeer convert`"),
    (f"{EXTRACT} --layers 1,4", "layer 4 is out of range: the model has 0 to 3"),
    (f"{EXTRACT} --layers last", "--layers 'last': expected 'all', or numbers such as 10,12"),
    (f"{EXTRACT} --layers 3-1", "--layers '3-1': expected 'all', or numbers such as 10,12 or 8-15"),
    (f"{EXTRACT} --site mlp", "site 'mlp' is unknown; expected one of resid_pre, resid_mid"),
    (f"{EXTRACT} --read-token -9", "text has 4 tokens, too few for read_token -9: 'good'"),
    (f"{EXTRACT} --read-token end", "--read-token: read token 'end' is unknown; expected -1 or"),
    (f"{EXTRACT} --read-token 3", "read_token is 3; it counts from the end of each text"),
    (f"{EXTRACT} --read-token 1:2:3", "--read-token: read token '1:2:3' is unknown; expected"),
    (f"{EXTRACT} --dtype int8", "--dtype 'int8' is unknown; expected one of float32, bfloat16"),
    (f"{EXTRACT} --device nowhere", "--device 'nowhere' cannot be used here: "),
    (f"{EXTRACT} --num-layers 2", "--num-layers goes with random weights; 'tiny' has weights"),
    (f"{EXTRACT} --model random:tiny", "random:tiny has random weights and no tokenizer; give a"),
    (f"{EXTRACT} --model random:huge", "random:huge is unknown; there are llama-2-7b, tiny"),
    (f"{GENERATE}:strength=2", "unknown setting 'strength'; expected FILE[:layer=N[,N...]]"),
    (f"{GENERATE}:layer=2", "'v' has no direction for layer 2; it has [1]"),
    (f"{GENERATE}:coefficient=nan", "coefficient of 'v' is nan"),
    (f"{GENERATE} --steer no.safetensors", "no.safetensors: no such file"),
    (f"{GENERATE} --steer cut.safetensors", "cut.safetensors: not a readable safetensors file"),
    (f"{GENERATE} --steer pairs.jsonl", "pairs.jsonl: JSON, but no vector of IBM's"),
    (f"{GENERATE} --steer wide.safetensors", "'wide' has hidden size 65, but the model's is 64"),
    (f"{GENERATE} --steer deep.safetensors", "layer 9 is out of range"),
    (f"{GENERATE} --prompt=", "a prompt has no tokens; there is nothing to continue"),
    (
        "convert v.safetensors out.csv",
        "out.csv: its suffix '.csv' states no format; expected",
    ),
    ("convert v.safetensors out.bin --format csv", "format 'csv' is unknown; expected one of safe"),
    ("convert v.safetensors v.gguf --shift", "v.safetensors: only GGUF files of llama.cpp's"),
    ("convert v.safetensors v.gguf --layers 2", "'v' has no direction for layer 2; it has [1]"),
    (
        "convert v.safetensors v.pt",
        "only the name of CAA's .pt states its layer; name it vec_layer",
    ),
    ("convert zero.safetensors v.gguf", "llama.cpp rejects a whole file that has a direction.0"),
    (f"{GENERATE} --model random:tiny", "random:tiny has random weights and no tokenizer; give a"),
    (SWEEP, "give one of --behaviour, --pairs and --documents"),
    (f"{SWEEP} --documents text", "--documents 'text': expected NAME=PATH, each name once"),
    (f"{SWEEP} --documents text=no.jsonl", "no.jsonl: no such file or folder"),
    (f"{SWEEP} --behaviour kind --data .", "kind.json: no such file"),
    (f"{SWEEP} --behaviour kind", "behaviour 'kind' is unknown; there are agreeableness, anti"),
    (f"{SWEEP_ANSWERS} --part train", "2 choices are too few for the part 'train': 500 are"),
    (f"{SWEEP_ANSWERS} --part best", "part 'best' is unknown; expected one of all, train"),
    (f"{SWEEP_DOCUMENTS} --output v.safetensors", "v.safetensors is a file; expected a folder"),
    (f"{SWEEP_DOCUMENTS} --output v.safetensors/x", "v.safetensors is a file; expected"),
    (f"{SWEEP_DOCUMENTS} --coefficients=0", "coefficients [0.0]: expected at least one, each"),
    (f"{SWEEP_DOCUMENTS} --coefficients=1,nan", "--coefficients '1,nan': expected numbers such"),
    (f"{SWEEP_DOCUMENTS} --layers 9", "layer 9 is out of range: the model has 0 to 3"),
    (
        f"{SWEEP_DOCUMENTS} --vector v.safetensors",
        "vectors are named ['v', 'v']; expected at least",
    ),
    (f"{SWEEP_DOCUMENTS} --vector wide.safetensors", "'wide' has hidden size 65, but the model's"),
    (f"{SWEEP} --documents text=short.jsonl", "text 0 has 1 tokens, of which none is predicted"),
    (f"{SWEEP} --behaviour words --data . --part all", "the option 'Yes' is not a single token of"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[m[0][9:] for m in MISTAKES])
def test_a_user_error_is_one_line_and_exit_code_2(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["faststeer", *command.split()])
    before = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as exit_:
        main.main()
    complaint = capsys.readouterr().err
    assert exit_.value.code == 2
    assert re.match(f"error: .*{re.escape(message)}", complaint)
    assert complaint.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_the_commands_work_without_the_errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for command in (EXTRACT, GENERATE, SWEEP_DOCUMENTS, f"{SWEEP_ANSWERS} --output answers"):
        monkeypatch.setattr(sys, "argv", ["faststeer", *command.split()])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        assert exit_.value.code == 0
    assert SteeringVector.load("out.safetensors").layers == [0, 1, 2, 3]
    for output in ("swept", "answers"):
        records = (folder / output / "results.jsonl").read_text().splitlines()
        assert len(records) == 3  # columns: kind, unsteered, steered
        assert (folder / output / "summary.json").is_file()


def test_a_real_process_exits_with_the_same_line_and_code(folder: Path) -> None:
    command = [*FASTSTEER, *f"{EXTRACT} --pairs bad.jsonl".split()]
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(
        r"error: bad\.jsonl, line 2: expected an object with a text under 'positive'\n", done.stderr
    )
