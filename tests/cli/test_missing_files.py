"""Commands name a path that is missing, empty or of the wrong kind in one sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from faststeer import SteeringVector
from faststeer.cli import main

EXTRACT = "extract --output o.safetensors"
SWEEP = "sweep --coefficients=1 --model tiny --output swept"
INSPECT = "inspect v.safetensors --model tiny"
NOT_THERE = "no: no such file"

MISTAKES = [
    (f"{EXTRACT} --model tiny --pairs no", NOT_THERE),
    (f"{EXTRACT} --model tiny --pairs folder", "folder: is a folder; expected"),
    (f"{EXTRACT} --model tiny --pairs empty", "empty: has no rows; expected"),
    (f"{EXTRACT} --model tiny --pairs wide", "wide: is UTF-16 or UTF-32"),
    (
        "extract --model tiny --output o.safetensors --behaviour myopic --data no",
        "no/myopic.json: no",
    ),
    (
        "extract --model tiny --output o.safetensors --positive no --negative v.safetensors",
        NOT_THERE,
    ),
    (
        "extract --model tiny --output o.safetensors --positive folder --negative no",
        "folder: no files",
    ),
    (
        "extract --model tiny --output folder --pairs pairs.jsonl",
        "folder: is a folder; expected the",
    ),
    (f"{EXTRACT} --model ./no --pairs pairs.jsonl", "./no: no such folder"),
    (
        "extract --model ./folder --output o.safetensors --pairs pairs.jsonl",
        "./folder: this folder has",
    ),
    (
        "extract --model empty --output o.safetensors --pairs pairs.jsonl",
        "empty: is a file; expected",
    ),
    (
        "extract --model org/none --output o.safetensors --pairs pairs.jsonl",
        "model 'org/none' cannot",
    ),
    (f"{SWEEP} --vector no --documents text=v.txt", NOT_THERE),
    (f"{SWEEP} --vector v.safetensors --documents text=no", NOT_THERE),
    (f"{SWEEP} --vector v.safetensors --documents text=empty", "empty: is empty; expected text"),
    (
        f"{SWEEP} --vector v.safetensors --behaviour myopic --data no",
        "no/myopic.json: no such",
    ),
    ("inspect no", NOT_THERE),
    ("inspect empty", "empty: is empty; expected a vector's file"),
    ("inspect folder", "folder: a folder without a file vec_layer_"),
    ("inspect v.safetensors --beside no", NOT_THERE),
    (f"{INSPECT} --pairs no", NOT_THERE),
    (f"{INSPECT} --texts no", NOT_THERE),
    (f"{INSPECT} --texts folder", "folder: is a folder; expected JSONL"),
    ("calibrate no --model tiny", NOT_THERE),
    ("calibrate v.safetensors --model tiny --texts no", NOT_THERE),
    ("highlight no --model tiny --text x", NOT_THERE),
    ("highlight v.safetensors --model tiny --texts no", NOT_THERE),
    (
        "highlight v.safetensors --model tiny --text x --html folder",
        "folder: is a folder; expected",
    ),
    ("convert no v.gguf", NOT_THERE),
    ("convert v.safetensors no/v.gguf", "no/v.gguf: the folder no does not exist"),
    ("convert v.safetensors folder --format lm-eval", "folder: is a folder; expected the name of"),
    ("bake --steer no --output o --model tiny", NOT_THERE),
    ("bake --steer v.safetensors --output no/o --model tiny", "no/o: the folder no does not exist"),
    ("generate --steer no --prompt x --model tiny", NOT_THERE),
    ("compare --steer no --prompt x --model tiny", NOT_THERE),
    (
        "compare --steer v.safetensors --prompt x --model tiny --output folder",
        "folder: is a folder; expected",
    ),
    ("experiment broad-skills --output o --model tiny --text no --quick", NOT_THERE),
    ("experiment broad-skills --output o --model tiny --code no --quick", NOT_THERE),
    ("experiment behaviours --output o --model tiny --data no --quick", "no/myopic.json: no such"),
    ("report no", "no: no such folder; expected the --output of `faststeer experiment`"),
    ("report folder", "folder: no outcome.json here or in a folder right below"),
    ("report empty", "empty: no such folder"),
    ("data fetch behaviours --output empty", "empty: file exists"),
    ("check --model ./no", "./no: no such folder; expected a model's folder"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_path_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path,
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    message: str,
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "wide").write_text('{"positive": "a", "negative": "b"}', encoding="utf-16")
    (tmp_path / "pairs.jsonl").write_text('{"positive": "a", "negative": "b"}\n')
    (tmp_path / "tiny").symlink_to(tiny_folder)
    (tmp_path / "v.txt").write_text("well, well")
    SteeringVector("v", {1: torch.ones(64)}).save(tmp_path / "v.safetensors")
    before = sorted(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["faststeer", *command.split()])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    complaint = capsys.readouterr().err
    assert exit_.value.code == 2
    assert complaint.startswith(f"error: {message}")
    assert "Errno" not in complaint
    assert complaint.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_an_unexpected_system_error_is_one_sentence_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "v.gguf")

    monkeypatch.setattr(SteeringVector, "load", full)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["faststeer", "convert", "a.gguf", "b.gguf"])
    with pytest.raises(SystemExit):
        main.main()
    assert capsys.readouterr().err == "error: v.gguf: no space left on device\n"


def test_an_unwritable_folder_is_named_instead_of_the_temporary_file_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    def refused(**_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / ".v.safetensors.x.part"))

    monkeypatch.setattr(tempfile, "mkstemp", refused)  # root may write everywhere
    with pytest.raises(PermissionError) as caught:
        SteeringVector("v", {1: torch.ones(2)}).save(tmp_path / "v.safetensors")
    assert (
        str(caught.value) == f"{tmp_path / 'v.safetensors'}: cannot be written (Permission denied)"
    )
