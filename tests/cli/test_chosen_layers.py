"""Commands steer a vector of several layers only where a layer is given or stated."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import FASTSTEER, environment

from faststeer import SteeringVector
from faststeer.cli import main


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw = torch.Generator().manual_seed(0)
    v = SteeringVector("v", {n: torch.randn(64, generator=draw) for n in (0, 1, 2)})
    v.save(tmp_path / "v.safetensors")
    tuned = replace(v, metadata={"layers": [1], "coefficient": -2.5})
    tuned.save(tmp_path / "tuned.safetensors")
    (tmp_path / "texts.jsonl").write_text('{"text": "Basalt is a rock."}\n')
    (tmp_path / "tiny").symlink_to(tiny_folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["faststeer", *command.split()])
    with pytest.raises(SystemExit) as left:
        main.main()
    return int(left.value.code or 0)


GENERATE = "generate --model tiny --prompt Hi --max-new-tokens 2 --steer"
HIGHLIGHT = "highlight --model tiny --text Hi --html page.html"
CALIBRATE = "calibrate --model tiny --texts texts.jsonl --target 0.01"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (f"{GENERATE} v.safetensors", "--steer v.safetensors:layer=1"),
        (f"{HIGHLIGHT} v.safetensors", "--layer 1"),
        (f"{CALIBRATE} v.safetensors", "--layers 1"),
        ("bake --model tiny --output baked --steer v.safetensors", "--steer v.safetensors:layer=1"),
    ],
)
def test_a_vector_of_several_layers_without_a_choice_is_refused_with_its_layers_and_the_option(
    command, named, folder, monkeypatch, capsys
) -> None:
    assert run(command, monkeypatch) == 2
    complaint = capsys.readouterr().err
    assert "'v' has layers [0, 1, 2]" in complaint
    assert re.search(rf"such as {re.escape(named)}(,|$)", complaint)
    if "highlight" not in command:  # which shows one layer, and takes no coefficient
        assert "faststeer tune" in complaint


def test_a_vector_that_states_its_layer_needs_none(folder, monkeypatch, capsys) -> None:
    assert run(f"{GENERATE} tuned.safetensors", monkeypatch) == 0
    assert "v -2.5 at layer 1" in capsys.readouterr().out
    assert run(f"{GENERATE} tuned.safetensors:layer=2:coefficient=3", monkeypatch) == 0
    assert "v +3 at layer 2" in capsys.readouterr().out
    assert run(f"{HIGHLIGHT} tuned.safetensors", monkeypatch) == 0
    assert "<title>v, layer 1, tiny</title>" in (folder / "page.html").read_text()
    capsys.readouterr()
    assert run(f"{CALIBRATE} tuned.safetensors", monkeypatch) == 0
    stated = capsys.readouterr().out
    assert "--steer tuned.safetensors:coefficient=" in stated
    assert run(f"{CALIBRATE} v.safetensors --layers 1", monkeypatch) == 0
    assert capsys.readouterr().out == stated.replace("tuned.safetensors", "v.safetensors:layer=1")


def test_calibrate_on_all_layers_prints_an_option_that_generate_takes(
    folder, monkeypatch, capsys
) -> None:
    assert run(f"{CALIBRATE} v.safetensors --layers all", monkeypatch) == 0
    option = capsys.readouterr().out.split("--steer ")[1].strip()
    assert run(f"{GENERATE} {option}", monkeypatch) == 0
    assert "at layers 0–2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "bar"),
    [
        (f"{CALIBRATE} v.safetensors --layers 1", "calibrating"),
        (f"{GENERATE} v.safetensors:layer=1", "generating"),
    ],
)
def test_a_progress_bar_is_shown_on_a_terminal(command, bar, folder) -> None:
    terminal = environment(TTY_COMPATIBLE="1", FORCE_COLOR="1", TERM="xterm")
    started = [*FASTSTEER, *command.split()]
    done = subprocess.run(started, env=terminal, capture_output=True, text=True, check=True)
    assert bar in done.stdout
