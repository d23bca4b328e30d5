"""`faststeer compare` shows the library's result, in the terminal and as a page."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from example_data import THINKING

import faststeer
from faststeer import SteeringVector, diagnostics
from faststeer.cli import main
from faststeer.models.loading import load

COMPARE = "compare --model tiny --max-new-tokens 4"
ONE = f"{COMPARE} --steer one.safetensors:coefficient=3"
BOTH = f"{ONE} --steer v.safetensors:layer=2"

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    config = tmp_path / "tiny" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": THINKING}))
    draw = torch.Generator().manual_seed(0)
    both = {n: torch.randn(64, generator=draw) for n in (1, 2)}
    SteeringVector("v", both).save(tmp_path / "v.safetensors")
    SteeringVector("one", {1: both[1]}).save(tmp_path / "one.safetensors")
    (tmp_path / "text.txt").write_text("<b>from a file</b>\n", encoding="utf-8")
    (tmp_path / "wide.txt").write_text("wide", encoding="utf-16")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(text: str, *more: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["faststeer", *text.split(), *more])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out + captured.err

    return command


def test_it_shows_both_answers_and_texts_and_writes_the_page_of_the_library(
    folder: Path, run: Run
) -> None:
    long = "no name of a file " * 20
    texts = ["--text", "text.txt", "--text", long]
    how = f"{ONE} --prompt Hi --layer 2 --colour change --output page.html"
    code, output = run(how, *texts)
    assert code == 0
    assert "text 0\n<b>from a file</b>\n" in output
    assert f"text 1\n{long}"[:60] in output
    assert "as a share of the unsteered norm, at resid_post of layer 2." in output
    assert "wrote page.html" in output
    loaded = load("tiny")
    patched = faststeer.patch(loaded.model)
    patched.steer(SteeringVector.load("one.safetensors"), 3.0)
    found = diagnostics.compare(
        loaded.model,
        loaded.tokenizer,
        "Hi",
        texts=["<b>from a file</b>", long],
        layer=2,
        max_new_tokens=4,
    )
    page = diagnostics.comparison_as_html(found, "Steering of tiny", "change")
    assert (folder / "page.html").read_text(encoding="utf-8") == page


def test_several_vectors_act_together_and_one_more_is_projected_on(folder: Path, run: Run) -> None:
    code, output = run(f"{BOTH} --prompt Hi")
    assert code == 0
    assert "one +3 at layer 1, v +1 at layer 2" in output
    projected = f"{BOTH} --text Hi --colour projection --vector one.safetensors"
    code, output = run(projected)
    assert code == 0
    assert "unit direction of one, at resid_post of layer 1" in output
    assert "answer" not in output


def test_prompts_and_texts_are_put_into_the_chat_format(folder: Path, run: Run) -> None:
    steer = f"{COMPARE} --steer one.safetensors:positions=post_instruction --prompt Hi --text Why?"
    code, output = run(steer)
    assert (code, "positions=post_instruction needs --chat" in output) == (2, True)
    code, output = run(f"{steer} --chat --system Be_brief.")
    assert code == 0
    for own in ("Hi", "Why?"):
        assert f"\n<|system|>Be_brief.<|end|><|user|>{own}<|end|><|assistant|>" in output


MISTAKES = [
    (ONE, "there is nothing to compare; give --prompt or --text"),
    (f"{ONE} --prompt a --colour red", "--colour 'red' is unknown; expected one of kl, projection"),
    (
        f"{BOTH} --prompt a --colour projection",
        "--colour projection needs a vector to project on, and --steer has 2; give one with --vec",
    ),
    (f"{ONE} --prompt a --layer 1,2", "--layer '1,2': expected one layer, such as 15"),
    (f"{ONE} --prompt a --layer 9", "layer 9 is out of range: the model has 0 to 3"),
    (f"{ONE} --prompt a --output no/p.html", "no/p.html: the folder no does not exist"),
    (f"{ONE} --prompt a --vector no", "no: no such file"),
    (f"{ONE} --prompt a --vector v.safetensors", "'v' has layers [1, 2]; choose one of them with"),
    (f"{ONE} --prompt {'a' * 1021}", "at most 3 new tokens have room"),
    (f"{ONE} --text {'a' * 1025}", "text 0 has 1025 tokens, and the model's context is 1024"),
    (f"{ONE} --text wide.txt", "wide.txt: is UTF-16 or UTF-32"),
    (f"{ONE} --prompt a --system s", "--system: only with --chat"),
    (f"{COMPARE} --prompt a --steer v.safetensors", "'v' has layers [1, 2] and states none"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES)
def test_a_mistake_is_one_line(folder: Path, run: Run, command: str, message: str) -> None:
    code, output = run(command)
    assert code == 2
    assert output.startswith("error: ")
    assert message in output
    assert len(output.splitlines()) == 1


def test_an_empty_prompt_or_text_is_refused(folder: Path, run: Run) -> None:
    assert "the prompt is empty; expected at least one token" in run(ONE, "--prompt", "")[1]
    assert "text 0 is empty; expected at least one token" in run(ONE, "--text", "")[1]
