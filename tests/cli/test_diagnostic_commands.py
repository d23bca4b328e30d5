"""`faststeer inspect`, `highlight` and `calibrate` show the library's results."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from command_line import write_pairs
from transformers import AutoModelForCausalLM, AutoTokenizer

from faststeer import SteeringVector, diagnostics
from faststeer.cli import main

PAIRS = [(f"good thing {n}", f"a bad thing {n * n}") for n in range(6)]


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw = torch.Generator().manual_seed(0)
    both = {n: torch.randn(64, generator=draw) for n in (1, 2)}
    SteeringVector("v", both).save(tmp_path / "v.safetensors")
    SteeringVector("one", {1: both[1]}).save(tmp_path / "one.safetensors")
    SteeringVector("wide", {1: torch.ones(65)}).save(tmp_path / "wide.safetensors")
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    write_pairs(tmp_path / "few.jsonl", PAIRS[:3])
    (tmp_path / "texts.jsonl").write_text('{"text": "Basalt is a rock."}\n')
    (tmp_path / "long.jsonl").write_text(json.dumps({"text": "x" * 1025}))
    (tmp_path / "tiny").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


def run(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["faststeer", *command.split()])
    with pytest.raises(SystemExit) as exit_:
        main.main()
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def test_inspect_reads_as_many_pairs_as_items_says_and_finds_them_in_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASTSTEER_CACHE", str(folder / "kept"))
    command = "inspect v.safetensors --model tiny --pairs pairs.jsonl --texts texts.jsonl --items 5"
    code, uncached, _ = run(command, monkeypatch, capsys)
    assert code == 0
    assert "beyond the first 5" in uncached
    assert not (folder / "kept").exists()
    assert run(f"{command} --cache", monkeypatch, capsys)[1] == uncached
    files = {file: file.stat().st_ino for file in (folder / "kept" / "activations").iterdir()}
    assert len(files) > 0
    assert run(f"{command} --cache", monkeypatch, capsys)[1] == uncached
    assert files == {file: file.stat().st_ino for file in files}


def test_inspect_prints_and_plots_the_inspection(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, alone, _ = run("inspect v.safetensors --beside one.safetensors", monkeypatch, capsys)
    assert code == 0
    assert "cosine between vectors" in alone
    assert "+1.000" in alone
    assert "not computed: dose and logit lens: these need a model" in alone
    code, output, _ = run(
        "inspect v.safetensors --model tiny --pairs pairs.jsonl --texts texts.jsonl --layers 2 "
        "--coefficient 4 --plots out",
        monkeypatch,
        capsys,
    )
    assert code == 0
    inspection = json.loads((folder / "out" / "inspection.json").read_text())
    own = inspection["layers"]["2"]
    for shown in (f"{own['dose']:.1%}", f"{own['auc']:.3f}", "dose at +4", "logit lens"):
        assert shown in output
    model = AutoModelForCausalLM.from_pretrained("tiny")
    tokenizer = AutoTokenizer.from_pretrained("tiny")
    vector = SteeringVector.load("v.safetensors").select([2])
    aucs = diagnostics.separability(model, tokenizer, vector, PAIRS, progress=False)
    assert own["auc"] == aucs[2]
    assert "wrote out/separability.png" in output


def test_highlight_shows_the_texts_and_writes_a_page(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "highlight one.safetensors --model tiny --text <b>bold</b> --texts texts.jsonl"
    code, output, _ = run(f"{command} --html page.html", monkeypatch, capsys)
    assert code == 0
    assert "<b>bold</b>" in output
    assert "Basalt is a rock." in output
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "<title>one, layer 1, tiny</title>" in page
    assert "<b>" not in page
    assert len(re.findall(r'<span style="background', page)) == len("<b>bold</b>Basalt is a rock.")


def test_calibrate_prints_the_steer_option_that_reaches_the_target(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "calibrate v.safetensors --model tiny --target 0.05 --layers 2 --texts texts.jsonl"
    code, output, _ = run(f"{command} --opposite", monkeypatch, capsys)
    assert code == 0
    found = re.search(
        r"--steer v\.safetensors:layer=2:coefficient=(-[0-9.]+)$", output, re.MULTILINE
    )
    assert found
    again = diagnostics.calibrate(
        AutoModelForCausalLM.from_pretrained("tiny"),
        AutoTokenizer.from_pretrained("tiny"),
        SteeringVector.load("v.safetensors"),
        0.05,
        texts=["Basalt is a rock."],
        layers=2,
        opposite=True,
    )
    assert float(found[1]) == pytest.approx(again.coefficient, rel=1e-4)
    assert f"{again.divergence:.4g}" in output


MISTAKES = [
    ("inspect v.safetensors --pairs pairs.jsonl", "pairs and --texts need a model: give"),
    ("inspect v.safetensors --data .", "--data goes with --behaviour"),
    ("inspect v.safetensors --chat", "--chat goes with pairs"),
    ("inspect no.safetensors", "no.safetensors: no such file"),
    ("inspect v.safetensors --beside wide.safetensors", "'wide' (resid_post, 65) cannot be comp"),
    ("inspect v.safetensors --layers 3", "'v' has no direction for layer 3; it has [1, 2]"),
    ("inspect v.safetensors --tokens 0", "lens_tokens is 0; expected at least 1"),
    ("inspect wide.safetensors --model tiny", "'wide' has hidden size 65, but the model's is 64"),
    (
        "inspect v.safetensors --model tiny --pairs few.jsonl --texts texts.jsonl",
        "got 3 pairs; halves need at least 4",
    ),
    ("inspect v.safetensors --model random:tiny", "random:tiny has random weights and no token"),
    ("inspect v.safetensors --plots texts.jsonl", "texts.jsonl: plots go into a folder,"),
    ("highlight one.safetensors --model tiny", "there is no text to highlight; give --text or"),
    ("highlight v.safetensors --model tiny --text a", "'v' has layers [1, 2]; choose one with --l"),
    ("highlight one.safetensors --model tiny --text a --html no/x.html", "folder no does not"),
    ("highlight wide.safetensors --model tiny --text a", "hidden size 65, but the model's is 64"),
    ("calibrate one.safetensors --model tiny --target 0", "target is 0; expected a finite number"),
    (
        "calibrate one.safetensors --model tiny --target 1e9 --texts texts.jsonl",
        "the target 1e+09 is not reached: the largest found is",
    ),
    (
        "calibrate one.safetensors --model tiny --max-length 0",
        "text 0 has 0 tokens, of which none is predicted",
    ),
    (
        "calibrate one.safetensors --model tiny --max-length 2000 --texts long.jsonl",
        "text 0 has 1025 tokens, and the model's context is 1024; max_length=1024 truncates",
    ),
    ("calibrate v.safetensors --model tiny", "Give one, such as --layers 2"),
    (
        "generate --steer v.safetensors:coefficient=2 --model tiny --prompt a",
        "'v' has layers [1, 2] and states none to steer; all of them together are a dose that "
        "breaks text. Give one, such as --steer v.safetensors:layer=2",
    ),
    ("calibrate wide.safetensors --model tiny", "hidden size 65, but the model's is 64"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_user_error_is_one_line_and_exit_code_2(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    message: str,
) -> None:
    before = sorted(folder.iterdir())
    code, _, complaint = run(command, monkeypatch, capsys)
    assert code == 2
    assert re.match(f"error: .*{re.escape(message)}", complaint)
    assert complaint.count("\n") == 1
    assert sorted(folder.iterdir()) == before
