"""Pairs and texts from files, folders, chats and datasets, one at a time."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from example_data import QUESTIONS, TEMPLATE, write_lines
from places import BEHAVIOURS
from transformers import PreTrainedTokenizerFast

from faststeer import data
from faststeer.data import jsonl
from faststeer.data.fetching import SETS


@pytest.mark.parametrize("indent", [None, 2])
def test_questions_become_pairs_that_differ_in_the_answer(
    tmp_path: Path, indent: int | None
) -> None:
    array, lines = tmp_path / "myopic.json", write_lines(tmp_path / "myopic.jsonl", QUESTIONS)
    array.write_text(json.dumps(QUESTIONS, indent=indent))
    expected = [(f"{n}?\nI choose (B", f"{n}?\nI choose (A") for n in range(3)]
    for pairs in (data.QuestionPairs(array), data.QuestionPairs(lines)):
        assert len(pairs) == 3
        assert list(pairs) == expected == list(pairs)
    assert list(data.behaviour("myopic", tmp_path)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"question": "?"}]', ", row 1: expected an object with a text under 'answer_matching"),
        ("[1, 2]", ", row 1: expected an object with a text under 'question'"),
        (json.dumps(QUESTIONS)[:-1], ": not JSON (Expecting ',' delimiter: line 1 column"),
        (json.dumps(QUESTIONS)[:-9], ": not JSON (Unterminated string"),
        (json.dumps(QUESTIONS) + "x", ": not JSON (Extra data: line 1 column"),
        ("[{} {}]", ": not JSON (Expecting ',' delimiter: line 1 column 5"),
        ("[" * 100_000, ": not JSON (maximum recursion depth exceeded"),
    ],
)
def test_a_malformed_array_is_reported_with_its_position(
    tmp_path: Path, content: str, message: str
) -> None:
    file = tmp_path / "q.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{file}{message}")):
        data.QuestionPairs(file)


def test_an_array_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "q.json"
    file.write_bytes(b'[{"question": "\xff"}]')
    with pytest.raises(ValueError, match=r"q\.json: not UTF-8 \(.* save the file as UTF-8"):
        data.QuestionPairs(file)


def test_an_array_above_the_limit_is_refused_unread_but_its_rows_load_as_json_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array, rows = tmp_path / "pairs.json", list(pair_rows(1_000))
    array.write_text(json.dumps(rows))
    assert len(data.PairsFile(array)) == 1_000
    size = array.stat().st_size
    monkeypatch.setattr(jsonl, "_LARGEST_ARRAY", size)
    assert len(data.PairsFile(array)) == 1_000
    monkeypatch.setattr(jsonl, "_LARGEST_ARRAY", size - 1)
    message = f"pairs.json: is a JSON array of {size:,} bytes, which is read as a whole; the limit"
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"{message} is {size - 1:,}; save it as JSON lines"):
        data.PairsFile(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size
    assert len(data.PairsFile(write_lines(tmp_path / "pairs.jsonl", rows))) == 1_000


def test_the_shared_behaviours_match_the_pinned_hashes() -> None:
    if not BEHAVIOURS.is_dir():
        pytest.skip(f"the behaviours are not there: no {BEHAVIOURS}")
    pinned = SETS["behaviours"].files
    assert {file.name for file in BEHAVIOURS.iterdir()} == set(pinned)
    for name, digest in pinned.items():
        assert hashlib.sha256((BEHAVIOURS / name).read_bytes()).hexdigest() == digest
    assert len(data.behaviour("myopic", BEHAVIOURS)) == 1000
    assert len(data.behaviour("wealth_seeking", BEHAVIOURS)) == 985


def test_an_unknown_or_missing_behaviour_is_reported_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSTEER_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="faststeer data fetch behaviours"):
        data.behaviour("myopic")
    for name in ("greed", "../myopic"):
        with pytest.raises(ValueError, match="is unknown; there are agreeableness, anti_immi"):
            data.behaviour(name)
    with pytest.raises(ValueError, match="is unknown"):
        data.behaviour("../myopic", tmp_path)


def test_a_file_is_one_document_and_a_folder_many_in_the_order_of_their_names(
    tmp_path: Path,
) -> None:
    (tmp_path / "b").mkdir()
    for name in ("c.txt", "a.py", "b/z.py", "b/a.md"):
        (tmp_path / name).write_text(name + "\n", encoding="utf-8")
    write_lines(tmp_path / "b" / "rows.jsonl", [{"text": "one"}, {"text": "two"}])
    assert list(data.Documents(tmp_path / "c.txt")) == ["c.txt\n"]
    whole = data.Documents(tmp_path)
    assert list(whole) == ["a.py\n", "c.txt\n", "b/a.md\n", "one", "two", "b/z.py\n"] == list(whole)
    (tmp_path / "__init__.py").touch()  # has no text to read
    assert list(data.Documents(tmp_path / "*.py")) == ["a.py\n", "b/z.py\n"]
    assert list(data.Documents(str(tmp_path / "b" / "rows.jsonl"))) == ["one", "two"]


def test_documents_that_are_missing_or_not_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "a.txt").touch()
    for nothing, message in (
        ("none.txt", "no such file or folder"),
        ("none/*.py", "no such file or folder"),
        ("empty", "no files in this folder, or all of them are empty"),
        ("hollow", "no files in this folder, or all of them are empty"),
        ("*.py", f"no files of such names in {tmp_path}, or all of them are empty"),
    ):
        expected = re.escape(f"{tmp_path / nothing}: {message}")
        with pytest.raises(FileNotFoundError, match=expected):
            data.Documents(tmp_path / nothing)
    (tmp_path / "a.pyc").write_bytes(b"\xa7\x0d\x0d\x0a")
    with pytest.raises(ValueError, match=r"a\.pyc: not UTF-8 .*, or choose files by name, such as"):
        list(data.Documents(tmp_path))


def test_columns_of_rows_become_pairs_and_texts(tmp_path: Path) -> None:
    rows = [{"chosen": "good", "rejected": "bad", "n": 1}, {"chosen": "kind", "rejected": "cruel"}]
    assert list(data.PairsIn(rows, "chosen", "rejected")) == [("good", "bad"), ("kind", "cruel")]
    assert list(data.TextsIn(rows, "rejected")) == ["bad", "cruel"]
    with pytest.raises(ValueError, match="row 0 has no column 'text'; it has chosen, rejected, n"):
        list(data.TextsIn(rows, "text"))
    with pytest.raises(ValueError, match="row 0: column 'n' holds a int; expected a text"):
        list(data.TextsIn(rows, "n"))


def test_a_hugging_face_dataset_can_be_streamed_repeatedly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(5)]
    file = write_lines(tmp_path / "rows.jsonl", rows)
    pairs = data.PairsIn(data.hub_rows("json", data_files=str(file)), "chosen", "rejected")
    expected = [(f"good {n}", f"bad {n}") for n in range(5)]
    assert list(pairs) == expected == list(pairs)


def test_without_the_datasets_package_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'faststeer\[data\]'"):
        data.hub_rows("json")


@pytest.fixture
def chat_tokenizer(tiny_folder: Path) -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_folder)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_an_answer_is_left_open_and_a_question_gets_a_generation_prompt(
    chat_tokenizer: Any,
) -> None:
    question = {"role": "user", "content": "Hi?"}
    answer = {"role": "assistant", "content": "Go away"}
    assert data.chat_text([question, answer], chat_tokenizer) == ("<user>Hi?</s><assistant>Go away")
    asked = "<user>Hi?</s><assistant>"
    assert data.chat_text([question], chat_tokenizer) == asked
    assert data.chat_text("Hi?", chat_tokenizer) == asked
    pairs = data.InChat([("Hi?", [question, answer])], chat_tokenizer)
    assert list(pairs) == [(asked, "<user>Hi?</s><assistant>Go away")] == list(pairs)


def test_messages_that_a_template_rejects_are_refused_with_the_pair(
    chat_tokenizer: Any, byte_tokenizer: Any
) -> None:
    pairs = data.InChat([("Hi", [{"role": "system", "content": "x"}])], chat_tokenizer)
    with pytest.raises(ValueError, match=r"pair 0: the chat template does not take .* no system"):
        list(pairs)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        data.chat_text("Hi", byte_tokenizer)


def test_messages_in_a_pairs_file_are_checked_with_the_line(tmp_path: Path) -> None:
    good = {"positive": [{"role": "user", "content": "a"}], "negative": "b"}
    file = write_lines(tmp_path / "pairs.jsonl", [good])
    assert list(data.PairsFile(file, chat=True)) == [(good["positive"], "b")]
    with pytest.raises(ValueError, match="line 1: expected an object with a text under 'positive'"):
        data.PairsFile(file)
    write_lines(file, [good, {"positive": [{"role": "user"}], "negative": "b"}])
    with pytest.raises(ValueError, match=r"line 2, positive: .* a text under 'content'"):
        data.PairsFile(file, chat=True)
    write_lines(file, [good, {"positive": [], "negative": "b"}])
    with pytest.raises(ValueError, match="line 2: expected a text or a list of messages under 'po"):
        data.PairsFile(file, chat=True)


def peak_of(texts: Iterable[Any]) -> int:
    """Return the peak bytes of Python objects while all of it is read."""
    tracemalloc.start()
    for _ in texts:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def pair_rows(count: int) -> Iterator[dict[str, str]]:
    return ({"positive": f"{n} is good", "negative": f"{n} is bad"} for n in range(count))


def as_lines(file: Path, count: int, tokenizer: Any) -> Iterable[Any]:
    return data.PairsFile(write_lines(file, pair_rows(count)))


def as_documents(file: Path, count: int, tokenizer: Any) -> Iterable[Any]:
    rows = ({"text": row["positive"]} for row in pair_rows(count))
    return data.Documents(write_lines(file, rows))


def as_chat(file: Path, count: int, tokenizer: Any) -> Iterable[Any]:
    rows = pair_rows(count // 20)
    return data.InChat(data.PairsIn(rows, "positive", "negative"), tokenizer)


@pytest.mark.parametrize("source", [as_lines, as_documents, as_chat])
def test_memory_does_not_grow_with_the_number_of_rows(
    tmp_path: Path, chat_tokenizer: Any, source: Callable[[Path, int, Any], Iterable[Any]]
) -> None:
    file = tmp_path / "rows.jsonl"
    peak_of(source(file, 2_000, chat_tokenizer))  # one-time allocations
    few = peak_of(source(file, 2_000, chat_tokenizer))
    many = peak_of(source(file, 20_000, chat_tokenizer))
    assert many < 1.2 * few + 50_000
    assert many < 2 << 20
