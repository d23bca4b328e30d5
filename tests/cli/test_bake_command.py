"""`faststeer bake` writes the same checkpoint as the library, completely or not at all."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_hooks import random_vector
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import faststeer
from faststeer.cli import main

VECTOR = random_vector("v", [1, 2])


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    VECTOR.save(tmp_path / "v.safetensors")
    random_vector("wide", [1], 65).save(tmp_path / "wide.safetensors")
    (tmp_path / "tiny").symlink_to(tiny_folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


BAKE = "bake --model tiny --steer v.safetensors:layer=2:coefficient=3 --output out"


def run(monkeypatch: pytest.MonkeyPatch, command: str) -> int:
    monkeypatch.setattr(sys, "argv", ["faststeer", *command.split()])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    return int(exit_.value.code or 0)


@pytest.mark.parametrize("output", ["out", "empty"])
def test_the_command_writes_the_checkpoint_that_the_library_writes(
    folder, monkeypatch, capsys, output
) -> None:
    more = f"--steer v.safetensors:layer=1 --output {output} --dtype bfloat16"
    assert run(monkeypatch, f"{BAKE} {more}") == 0
    assert f"wrote {output}: add v +3, v +1" in capsys.readouterr().out
    expected = AutoModelForCausalLM.from_pretrained("tiny", dtype=torch.bfloat16)
    faststeer.bake(faststeer.bake(expected, VECTOR, 3.0, 2), VECTOR, 1.0, 1)
    found = AutoModelForCausalLM.from_pretrained(output, dtype="auto")
    assert found.config.faststeer_baked == expected.config.faststeer_baked
    assert found.state_dict().keys() == expected.state_dict().keys()
    for key, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)
        assert found.state_dict()[key].dtype == value.dtype
    tokens = AutoTokenizer.from_pretrained("tiny")("hello").input_ids
    assert AutoTokenizer.from_pretrained(output)("hello").input_ids == tokens
    names = {"tiny", "full", "empty", "out", "v.safetensors", "wide.safetensors"}
    assert {path.name for path in folder.iterdir()} == names - ({"out"} - {output})


MISTAKES = [
    ("--output full", "full exists and is not an empty folder; choose another"),
    ("--output v.safetensors", "v.safetensors exists and is not an empty folder; choose another"),
    ("--output no/out", "no/out: the folder no does not exist"),
    ("--mode project", "--mode 'project' is unknown; expected one of add, ablate"),
    ("--steer wide.safetensors", "'wide' has hidden size 65, but the model's is 64"),
    ("--steer no.safetensors", "no.safetensors: no such file"),
    (
        "--steer v.safetensors --mode ablate",
        "give the one layer, of [1, 2], whose direction that is",
    ),
]


@pytest.mark.parametrize(("more", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_user_error_prints_one_line_and_writes_nothing(
    folder, monkeypatch, capsys, more, message
) -> None:
    before = sorted(folder.rglob("*"))
    assert run(monkeypatch, f"{BAKE} {more}") == 2
    complaint = capsys.readouterr().err
    assert re.search(f"^error: .*{re.escape(message)}", complaint, re.MULTILINE)
    assert "Traceback" not in complaint
    assert sorted(folder.rglob("*")) == before


def test_a_checkpoint_is_written_completely_or_not_at_all(folder, monkeypatch) -> None:
    def stop(self: Any, path: Path) -> None:
        assert (path / "config.json").is_file()
        raise OSError("No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", stop)
    before = sorted(folder.rglob("*"))
    assert run(monkeypatch, BAKE) == 2
    assert sorted(folder.rglob("*")) == before
