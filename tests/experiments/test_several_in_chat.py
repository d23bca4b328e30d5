"""Several behaviours, asked in a chat template: `experiment behaviours --chat`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from example_data import LLAMA_3, TEMPLATE
from places import SHARED_DATA
from tokenizers import processors
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

import faststeer
from faststeer import SteeringVector
from faststeer.cli.main import app
from faststeer.data.chat import ChatFormat
from faststeer.data.questions import Choice
from faststeer.evaluate.matching import matching_scores
from faststeer.experiments import Result
from faststeer.experiments.several_behaviours import (
    BEHAVIOURS,
    Protocol,
    read_behaviours,
    several_behaviours,
)
from faststeer.experiments.several_behaviours.questions import in_chat
from faststeer.models import continuations

NAMES = ["myopic", "agreeableness"]
TINY = Protocol(
    train=6,
    items=3,
    items_at_once=2,
    rounds=1,
    layers=(10, 15),
    coefficients=(-2.0, 2.0),
    at_once=(-2.0, 0.0, 2.0),
    text_tokens=16,
    prompts=2,
    new_tokens=3,
)
TEXTS = ["well, well, and so it is", "one two three four"]
KEYS = ("question", "answer_matching_behavior", "answer_not_matching_behavior")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    folder = tmp_path / "questions"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        rows = [
            (f"Human:\nIs it {n * (number + 3)}?\n\nAI:\nI say (", "AB"[n % 2], "BA"[n % 2])
            for n in range(710)
        ]
        asked = [dict(zip(KEYS, row, strict=True)) for row in rows]
        (folder / f"{name}.json").write_text(json.dumps(asked))
    return folder


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Any:
    """Return a tokenizer that begins texts with a BOS, like its template."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_folder, bos_token="<s>")
    bos = ("<s>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A", None, [bos]
    )
    tokenizer.chat_template = LLAMA_3
    return tokenizer


def prompt(user: str, answer: str) -> str:
    """Return what the template makes of a question, written out."""
    head = "<s><|start_header_id|>{}<|end_header_id|>\n\n".format
    rest = head("assistant").removeprefix("<s>")
    return f"{head('user')}{user}<|eot_id|>{rest}{answer}"


def test_questions_and_prompts_are_asked_in_the_template_with_one_bos(
    make_tiny: Any,
    tokenizer: Any,
    questions: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_tiny()
    prompts: list[str] = []
    generate = model.generate

    def watched(**how: Any) -> Any:
        prompts.extend(tokenizer.decode(row) for row in how["input_ids"])
        return generate(**how)

    monkeypatch.setattr(model, "generate", watched)
    asked = read_behaviours(NAMES, questions, TINY, 13)
    output = tmp_path / "out"
    how = {"protocol": TINY, "text_source": "a few words", "progress": False}
    result = several_behaviours(model, tokenizer, asked, TEXTS, output, chat=True, **how)

    chat = ChatFormat(tokenizer)
    assert result.facts["chat"] == chat.digest
    begin = prompt("", "").removesuffix(
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert prompts
    assert all(begin in text and text.count("<s>") == 1 for text in prompts)

    def in_template(own: Choice) -> Choice:
        user = own.question.removeprefix("Human:\n").removesuffix("\n\nAI:\nI say (")
        return own._replace(question=prompt(user, "I say ("))

    choices = [in_template(own) for own in asked[0].test]
    expected = matching_scores(model, tokenizer, choices)
    otherwise = matching_scores(model, tokenizer, asked[0].test)
    lines = (output / "records" / "test-myopic.jsonl").read_text().splitlines()[1:]
    [record] = [row for row in map(json.loads, lines) if row["steering"] == {}]
    found = record["items"]["log_other"]
    assert found == pytest.approx(expected.log_other.tolist(), abs=1e-4)
    assert found != pytest.approx(otherwise.log_other.tolist(), abs=1e-2)

    vector = SteeringVector.load(output / "vectors" / "myopic.safetensors")
    assert vector.metadata["template"] == chat.digest
    train = [in_template(own) for own in asked[0].train]
    pairs = [(own.question + own.matching, own.question + own.other) for own in train]
    how = {"add_special_tokens": False, "layers": vector.layers, "progress": False}
    again = faststeer.extract(model, tokenizer, pairs, **how)
    for layer in vector.layers:
        torch.testing.assert_close(vector.directions[layer], again.directions[layer])
    assert Result.read(output).facts["chat"] == chat.digest


def test_a_prompt_of_a_template_gets_no_second_bos_when_continued(
    make_tiny: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny()
    seen: list[list[int]] = []
    generate = model.generate

    def watched(**how: Any) -> Any:
        seen.append(how["input_ids"][0].tolist())
        return generate(**how)

    monkeypatch.setattr(model, "generate", watched)
    bos, text = tokenizer.bos_token_id, prompt("Hi", "")
    doubled = tokenizer(text)["input_ids"]
    assert doubled[:3] == [bos, bos, tokenizer.convert_tokens_to_ids("<")]
    for special in (True, False):
        continuations(model, tokenizer, [text], 2, add_special_tokens=special)
    assert seen == [doubled[1:]] * 2


def test_questions_of_another_form_and_templates_that_reject_them_are_refused(
    tiny_folder: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = questions / "myopic.json"
    rows = json.loads(path.read_text())
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_folder)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        ChatFormat(tokenizer)
    tokenizer.chat_template = TEMPLATE
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    path.write_text(json.dumps([{**row, "question": "Is it? ("} for row in rows]))
    monkeypatch.chdir(tmp_path)
    command = "experiment behaviours --quick --model tiny --data questions --output measured --chat"
    for name in NAMES:
        command += f" --behaviour {name}"
    error = CliRunner().invoke(app, command.split()).exception
    assert isinstance(error, ValueError)
    assert "--chat: 'Is it? (' is not of the form 'Human: ... AI: ...'" in str(error)
    assert not (tmp_path / "measured").exists()


def test_the_paper_s_questions_can_be_asked_in_the_demo_s_template(demo_tokenizer: Any) -> None:
    folder = SHARED_DATA / "behaviours"
    if not folder.is_dir():
        pytest.skip(f"the question sets are not there: no {folder}")
    asked = read_behaviours(BEHAVIOURS, folder, Protocol.quick(), 13)
    found = in_chat(asked, ChatFormat(demo_tokenizer))
    end = "<|im_end|>\n<|im_start|>assistant\n"
    for own, plain in zip(found, asked, strict=True):
        for choice, before in zip(own.test, plain.test, strict=True):
            user, answer = before.question.removeprefix("Human:\n").rsplit("\n\nAI:\n", 1)
            assert choice.question.endswith(f"<|im_start|>user\n{user}{end}{answer}")
        last = own.test[-1]
        asks, answers = (
            demo_tokenizer(text)["input_ids"]
            for text in (last.question, last.question + last.matching)
        )
        assert len(answers) == len(asks) + 1  # an answer is a single token, as it has to be
