"""The sources of `faststeer extract` give the same vectors as the library."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from example_data import QUESTIONS, TEMPLATE, write_lines

import faststeer
from faststeer import SteeringVector
from faststeer.cli import main
from faststeer.extraction.read_token import parse_read_token
from faststeer.models.loading import load

Extracted = Callable[[str], SteeringVector]


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "tiny")
    config = tmp_path / "tiny" / "tokenizer_config.json"
    facts = json.loads(config.read_text()) | {"chat_template": TEMPLATE}
    config.write_text(json.dumps(facts))
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "myopic.json").write_text(json.dumps(QUESTIONS))
    for kind, texts in (("prose", ["a tale", "of seas"]), ("code", ["x = 1", "y = [2]"])):
        (tmp_path / kind).mkdir()
        for number, text in enumerate(texts):
            (tmp_path / kind / f"{number}.txt").write_text(text)
    rows = [{"chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(3)]
    write_lines(tmp_path / "rows.jsonl", rows)
    answer = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    chats = [{"positive": answer, "negative": f"Bye {n}"} for n in range(2)]
    write_lines(tmp_path / "chats.jsonl", chats)
    return tmp_path


@pytest.fixture
def extracted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Extracted:
    """Return a function that runs the command and loads the vector it writes."""

    def run(options: str) -> SteeringVector:
        monkeypatch.chdir(folder)
        command = f"faststeer extract --model tiny --output v.safetensors {options}"
        monkeypatch.setattr(sys, "argv", command.split())
        with pytest.raises(SystemExit) as exit_:
            main.main()
        assert exit_.value.code == 0
        return SteeringVector.load("v.safetensors")

    return run


def equal(vector: SteeringVector, folder: Path, **texts: Any) -> bool:
    """Return whether the vector equals the library's from these texts."""
    loaded = load(str(folder / "tiny"))
    ours = faststeer.extract(loaded.model, loaded.tokenizer, **texts, progress=False)
    return vector.layers == ours.layers and all(
        torch.equal(vector.directions[layer], ours.directions[layer]) for layer in ours.layers
    )


@pytest.mark.parametrize(
    "options", ["--behaviour myopic --data sets", "--behaviour sets/myopic.json"]
)
def test_a_behaviour_is_given_by_name_or_by_file(
    folder: Path, extracted: Extracted, options: str
) -> None:
    pairs = [(row["question"] + "B", row["question"] + "A") for row in QUESTIONS]
    assert equal(extracted(options), folder, pairs=pairs)


def test_a_vector_is_extracted_from_two_sets_of_documents(
    folder: Path, extracted: Extracted
) -> None:
    vector = extracted("--positive prose --negative code/*.txt")
    texts = {"positive": ["a tale", "of seas"], "negative": ["x = 1", "y = [2]"]}
    assert equal(vector, folder, **texts)


def test_chat_messages_are_templated_without_further_special_tokens(
    folder: Path, extracted: Extracted
) -> None:
    open_ = "<user>Hi</s><assistant>Hello"
    pairs = [(open_, f"<user>Bye {n}</s><assistant>") for n in range(2)]
    vector = extracted("--pairs chats.jsonl --chat")
    assert equal(vector, folder, pairs=pairs, add_special_tokens=False)


def test_a_dataset_is_read_by_its_columns(
    folder: Path, extracted: Extracted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    (folder / "hub").mkdir()
    (folder / "rows.jsonl").rename(folder / "hub" / "train.jsonl")
    vector = extracted("--dataset hub:train --columns chosen,rejected")
    assert equal(vector, folder, pairs=[(f"good {n}", f"bad {n}") for n in range(3)])


def test_items_limits_pairs_messages_and_the_documents_of_each_side(
    folder: Path, extracted: Extracted
) -> None:
    pairs = [(row["question"] + "B", row["question"] + "A") for row in QUESTIONS]
    assert len(pairs) > 1
    assert equal(extracted("--behaviour sets/myopic.json --items 1"), folder, pairs=pairs[:1])
    vector = extracted("--positive prose --negative code --items 1")
    assert equal(vector, folder, positive=["a tale"], negative=["x = 1"])
    chat = [("<user>Hi</s><assistant>Hello", "<user>Bye 0</s><assistant>")]
    vector = extracted("--pairs chats.jsonl --chat --items 1")
    assert equal(vector, folder, pairs=chat, add_special_tokens=False)
    assert vector.metadata["pairs"] == 1
    assert str(vector.metadata["template"]).startswith("sha256:")


def test_cache_keeps_the_activations_in_the_cache_folder(
    folder: Path, extracted: Extracted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSTEER_CACHE", str(folder / "kept"))
    documents = "--positive prose --negative code"
    extracted(documents)
    assert not (folder / "kept").exists()
    extracted(f"{documents} --cache")
    files = sorted((folder / "kept" / "activations").iterdir())
    assert len(files) > 0
    before = [file.stat().st_ino for file in files]
    vector = extracted(f"{documents} --cache --method logistic_probe")
    assert sorted((folder / "kept" / "activations").iterdir()) == files
    assert [file.stat().st_ino for file in files] == before  # read, and not written again
    assert vector.metadata["method"] == "logistic_probe"


ONE = "give one source: --pairs, --behaviour, --dataset, or --positive and --negative"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", ONE),
        ("--pairs rows.jsonl --behaviour myopic", ONE),
        ("--positive prose", ONE),
        ("--pairs rows.jsonl --data sets", "--data goes with --behaviour"),
        ("--behaviour greed", "behaviour 'greed' is unknown; there are agreeableness"),
        (
            "--behaviour myopic --data prose",
            "myopic.json: no such file; get it with `faststeer data",
        ),
        ("--dataset hub --columns chosen", "--columns 'chosen': expected two names, such as"),
        ("--positive none --negative code", "none: no such file or folder"),
    ],
)
def test_a_missing_or_superfluous_source_is_reported_before_the_model_is_loaded(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: str,
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    command = f"faststeer extract --model no-such-model --output v.safetensors {options}"
    monkeypatch.setattr(sys, "argv", command.split())
    with pytest.raises(SystemExit) as exit_:
        main.main()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "meant"),
    [("last", -1), ("-2", -2), ("-4:", range(-4, 0)), ("2:-1", slice(2, -1)), ("answer", "answer")],
)
def test_the_read_token_option_means_what_it_means_in_the_library(
    folder: Path, extracted: Extracted, option: str, meant: Any
) -> None:
    vector = extracted(f"--behaviour myopic --data sets --read-token {option}")
    pairs = [(row["question"] + "B", row["question"] + "A") for row in QUESTIONS]
    again = parse_read_token(str(vector.metadata["read_token"]))
    for read_token in (meant, again):
        assert equal(vector, folder, pairs=pairs, read_token=read_token)
