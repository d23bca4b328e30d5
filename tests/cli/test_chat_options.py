"""`--chat`, `--system` and `--template`: the same texts as the library's, in every command."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from example_data import THINKING, write_lines
from transformers import LlamaForCausalLM

import faststeer
from faststeer import FaststeerWarning, SteeringVector, diagnostics
from faststeer.cli import main
from faststeer.cli.chat_options import ChatOptions
from faststeer.data import InChat, TextsInChat
from faststeer.data.questions import Choice
from faststeer.evaluate import matching_scores
from faststeer.models.loading import load

OPTIONS = "--chat --system Be_brief. --template enable_thinking=False"
HOW: dict[str, Any] = {"system": "Be_brief.", "template": {"enable_thinking": False}}
BEGIN = "<|system|>Be_brief.<|end|><|user|>"
SILENT = "<|end|><|assistant|><think></think>"
USER = {"role": "user", "content": "Hi"}
CHATS = [
    ([USER, {"role": "assistant", "content": f"Hello {n}"}], f"Is it {n * n}?") for n in range(4)
]
QUESTIONS = [(f"Human:\nIs it {n}?\n\nAI:\nI choose (", "AB"[n % 2], "BA"[n % 2]) for n in range(6)]

Run = Callable[[str], tuple[int, str]]


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    config = tmp_path / "tiny" / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": THINKING}))
    rows = [dict(zip(("positive", "negative"), pair, strict=True)) for pair in CHATS]
    write_lines(tmp_path / "chats.jsonl", rows)
    write_lines(tmp_path / "texts.jsonl", [{"text": CHATS[0][0]}, {"text": "Why?"}])
    keys = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    asked = [dict(zip(keys, row, strict=True)) for row in QUESTIONS]
    write_lines(tmp_path / "asked.jsonl", asked)
    draw = torch.Generator().manual_seed(0)
    SteeringVector("v", {1: torch.randn(64, generator=draw)}).save(tmp_path / "v.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(text: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["faststeer", *text.split()])
        with pytest.raises(SystemExit) as exit_:
            main.main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out + captured.err

    return command


def test_values_are_json_or_python_s_constants_or_text() -> None:
    given = ["a=False", "b=true", "c=3", 'd={"e": [1]}', "f=26 Jul", "g=", "h=x=y"]
    expected = {"a": False, "b": True, "c": 3, "d": {"e": [1]}, "f": "26 Jul", "g": "", "h": "x=y"}
    assert ChatOptions.parse(True, None, given).template == expected
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(ValueError, match=r"--template .*: expected key=value"):
            ChatOptions.parse(True, None, wrong)


@pytest.mark.parametrize(
    "command",
    [
        "extract --model no --output w.safetensors --pairs chats.jsonl",
        "inspect v.safetensors",
        "highlight v.safetensors --model no --text a",
        "generate --model no --steer v.safetensors --prompt a",
        "compare --model no --steer v.safetensors --prompt a",
        "sweep --model no --vector v.safetensors --coefficients 1 --output out --behaviour asked",
    ],
)
def test_they_are_refused_without_chat_before_the_model_is_loaded(
    folder: Path, run: Run, command: str
) -> None:
    assert run(f"{command} --system S") == (2, "error: --system: only with --chat\n")
    both = run(f"{command} --system S --template a=1")
    assert both == (2, "error: --system and --template: only with --chat\n")


def equal(found: SteeringVector, pairs: Any, **how: Any) -> bool:
    """Return whether the vector equals the library's from these pairs."""
    loaded = load("tiny")
    how = {"add_special_tokens": False, "progress": False, **how}
    made = faststeer.extract(loaded.model, loaded.tokenizer, pairs, **how)
    return all(torch.equal(found.directions[n], made.directions[n]) for n in made.layers)


def test_extract_reads_conversations_with_system_prompt_and_arguments(
    folder: Path, run: Run
) -> None:
    command = f"extract --model tiny --pairs chats.jsonl --output w.safetensors {OPTIONS}"
    assert run(command)[0] == 0
    found = SteeringVector.load("w.safetensors")
    texts = [
        (f"{BEGIN}Hi<|end|><|assistant|>{p[1]['content']}", f"{BEGIN}{n}{SILENT}") for p, n in CHATS
    ]
    assert equal(found, texts)
    assert not equal(found, [(p.replace("Be_brief.", ""), n) for p, n in texts])
    assert found.metadata["template"] == InChat(texts, load("tiny").tokenizer, **HOW).template
    command = "inspect w.safetensors --model tiny --pairs chats.jsonl"
    with pytest.warns(FaststeerWarning, match="the same with another system prompt or other arg"):
        assert run(f"{command} --chat")[0] == 0
    with warnings.catch_warnings(record=True) as caught:
        assert run(f"{command} {OPTIONS}")[0] == 0
    assert not any("states chat template" in str(own.message) for own in caught)


def test_extract_reads_the_post_instruction_tokens_and_questions_in_turns(
    folder: Path, run: Run
) -> None:
    source = "--model tiny --behaviour asked.jsonl --output w.safetensors --chat"
    assert run(f"extract {source}")[0] == 0
    begin = "<|user|>Is it {}?<|end|><|assistant|>I choose ({}"
    pairs = [
        (begin.format(n, matching), begin.format(n, other))
        for n, (_, matching, other) in enumerate(QUESTIONS)
    ]
    assert equal(SteeringVector.load("w.safetensors"), pairs)
    rows = [{"positive": f"Yes {n}", "negative": f"No {n * n}"} for n in range(4)]
    write_lines(folder / "asks.jsonl", rows)
    source = f"--model tiny --pairs asks.jsonl --output w.safetensors {OPTIONS}"
    assert run(f"extract {source} --read-token post_instruction")[0] == 0
    texts = [(f"{BEGIN}{r['positive']}{SILENT}", f"{BEGIN}{r['negative']}{SILENT}") for r in rows]
    found = SteeringVector.load("w.safetensors")
    assert equal(found, texts, read_token=range(-len(SILENT), 0))  # a token is a byte here
    assert found.metadata["read_token"] == "post_instruction"


def test_extract_reads_sets_of_instructions(folder: Path, run: Run) -> None:
    for name, texts in (("harmful", ["Steal it", "Lie to her"]), ("harmless", ["Sing", "Cook"])):
        write_lines(folder / f"{name}.jsonl", [{"text": text} for text in texts])
    source = "--positive harmful.jsonl --negative harmless.jsonl --output w.safetensors"
    how = f"{OPTIONS} --read-token post_instruction"
    assert run(f"extract --model tiny {source} {how}")[0] == 0
    found = SteeringVector.load("w.safetensors")
    texts = {
        "positive": [f"{BEGIN}{text}{SILENT}" for text in ("Steal it", "Lie to her")],
        "negative": [f"{BEGIN}{text}{SILENT}" for text in ("Sing", "Cook")],
    }
    assert equal(found, None, **texts, read_token=range(-len(SILENT), 0))
    loaded = load("tiny")
    positive, negative = (TextsInChat(own, loaded.tokenizer, **HOW) for own in (["a"], ["b"]))
    assert found.metadata["template"] == positive.template
    for other in (["b"], TextsInChat(["b"], loaded.tokenizer)):
        with pytest.raises(ValueError, match="are not in the same chat format; give both as"):
            faststeer.extract(loaded.model, loaded.tokenizer, positive=positive, negative=other)
    quiet = {"read_token": "post_instruction", "progress": False, "add_special_tokens": False}
    aucs = diagnostics.separability(
        loaded.model, loaded.tokenizer, found, positive=positive, negative=negative, **quiet
    )
    assert aucs.keys() == found.directions.keys()


def test_generate_asks_in_the_format_and_steers_behind_the_instruction(
    folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, steered = [], []
    generate = LlamaForCausalLM.generate

    def watched(model: Any, **how: Any) -> Any:
        seen.append(bytes(how["input_ids"][0].tolist()))
        steered.extend(str(handle) for handle in faststeer.patch(model).handles)
        return generate(model, **how)

    monkeypatch.setattr(LlamaForCausalLM, "generate", watched)
    steer = "--steer v.safetensors:positions=post_instruction"
    command = f"generate --model tiny {steer} --prompt Hi --max-new-tokens 2"
    code, output = run(command)
    assert (code, "positions=post_instruction needs --chat" in output) == (2, True)
    assert seen == []
    assert run(f"{command} {OPTIONS}")[0] == 0
    tokenizer = load("tiny").tokenizer
    expected = tokenizer(f"{BEGIN}Hi{SILENT}", add_special_tokens=False)["input_ids"]
    assert seen == [bytes(expected)] * 2
    assert f"-{len(SILENT)}:0" in steered[0]


def test_highlight_colours_conversations(folder: Path, run: Run) -> None:
    command = "highlight v.safetensors --model tiny --texts texts.jsonl"
    code, output = run(command)
    assert code == 2
    assert "line 1: expected an object with a text under 'text', and got a list" in output
    code, output = run(f"{command} {OPTIONS}")
    assert code == 0
    assert f"{BEGIN}Hi<|end|><|assistant|>Hello 0\n" in output
    assert f"{BEGIN}Why?{SILENT}\n" in output


def test_sweep_asks_in_the_format_and_warns_of_a_vector_from_another(
    folder: Path, run: Run
) -> None:
    stated = SteeringVector.load("v.safetensors").directions
    SteeringVector("v", stated, metadata={"template": "sha256:0"}).save("v.safetensors")
    command = "sweep --model tiny --vector v.safetensors --coefficients 1 --behaviour asked.jsonl"
    command += " --part all --layers 1"
    assert run(f"{command} --output plain")[0] == 0
    with pytest.warns(FaststeerWarning, match="states chat template 'sha256:0', but is used"):
        assert run(f"{command} --output chat {OPTIONS}")[0] == 0
    loaded = load("tiny")
    begin = f"{BEGIN}Is it {{}}?<|end|><|assistant|>I choose ("
    asked = [Choice(begin.format(n), *row[1:]) for n, row in enumerate(QUESTIONS)]
    expected = matching_scores(loaded.model, loaded.tokenizer, asked)
    found = {}
    for output in ("plain", "chat"):
        rows = (folder / output / "results.jsonl").read_text().splitlines()
        [record] = [row for row in map(json.loads, rows) if row.get("steering") == {}]
        found[output] = record["scores"]["mass"]
    assert found["chat"] == pytest.approx(expected.mass, rel=1e-4)
    assert found["plain"] != pytest.approx(expected.mass, rel=1e-2)
    code, output = run(f"{command} --output texts --chat --documents a=texts.jsonl")
    assert (code, "give one of --behaviour, --pairs and --documents" in output) == (2, True)
    command = command.replace("--behaviour asked.jsonl", "--documents a=texts.jsonl")
    code, output = run(f"{command} --output texts --chat")
    assert (code, "not with --pairs or --documents" in output) == (2, True)


@pytest.mark.parametrize("how", [[], ["--read-token", "post_instruction"]])
def test_tune_states_the_format_of_its_vector(folder: Path, run: Run, how: list[str]) -> None:
    rows = [{"positive": f"Yes {n}", "negative": f"No {n * n}"} for n in range(8)]
    write_lines(folder / "asks.jsonl", rows)
    command = "tune --model tiny --layers 1 --max-length 64 --texts texts.jsonl --pairs asks.jsonl"
    write_lines(folder / "texts.jsonl", [{"text": "well and so it is " * 3}] * 8)
    assert run(f"{command} {OPTIONS} --output w.safetensors {' '.join(how)}")[0] == 0
    expected = InChat([], load("tiny").tokenizer, **HOW).template
    assert SteeringVector.load("w.safetensors").metadata["template"] == expected
    message = "--chat goes with texts, not with --trait or --objective"
    assert message in run("tune --model no --output x.safetensors --trait sentiment --chat")[1]
