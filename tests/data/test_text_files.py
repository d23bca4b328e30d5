"""Text files that users give: byte-order marks, other encodings, and files that cannot be read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from faststeer.data import Documents, PairsFile, QuestionPairs
from faststeer.data.jsonl import read_texts
from faststeer.evaluate import read_choices

QUESTION = {
    "question": "Größer? (",
    "answer_matching_behavior": "A",
    "answer_not_matching_behavior": "B",
}
PAIR = {"positive": "größer", "negative": "良い"}
Read = Callable[[Path], Any]
READERS: dict[str, tuple[Read, dict[str, str]]] = {
    "pairs": (lambda path: list(PairsFile(path)), PAIR),
    "texts": (lambda path: list(read_texts(path)), {"text": "größer"}),
    "questions": (lambda path: list(QuestionPairs(path)), QUESTION),
    "choices": (lambda path: list(read_choices(path)), QUESTION),
    "documents": (lambda path: list(Documents(path)), {"text": "größer"}),
}
readers = pytest.mark.parametrize(("read", "row"), READERS.values(), ids=READERS)


def written(file: Path, row: dict[str, str], encoding: str, array: bool = False) -> Path:
    line = json.dumps(row, ensure_ascii=False)
    file.write_text(f"[{line},\n{line}]\n" if array else f"{line}\n{line}\n", encoding=encoding)
    return file


@readers
@pytest.mark.parametrize("array", [False, True], ids=["JSONL", "array"])
def test_a_file_with_a_byte_order_mark_reads_the_same_as_without(
    tmp_path: Path, read: Read, row: dict[str, str], array: bool
) -> None:
    plain = written(tmp_path / "plain.jsonl", row, "utf-8", array)
    marked = written(tmp_path / "marked.jsonl", row, "utf-8-sig", array)
    assert marked.read_bytes() == b"\xef\xbb\xbf" + plain.read_bytes()
    assert read(marked) == read(plain)
    assert len(read(marked)) == 2


def test_a_document_with_a_byte_order_mark_reads_the_same_as_without(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("größer\nals", encoding="utf-8-sig")
    assert list(Documents(tmp_path / "a.txt")) == ["größer\nals"]
    assert list(Documents(tmp_path)) == ["größer\nals"]


@readers
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_unicode_encoding_is_refused_with_the_file_s_name(
    tmp_path: Path, read: Read, row: dict[str, str], encoding: str
) -> None:
    file = written(tmp_path / "other.jsonl", row, encoding)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: is UTF-16 or UTF-32"):
        read(file)


@readers
@pytest.mark.parametrize("array", [False, True], ids=["JSONL", "array"])
def test_latin_1_is_refused_with_the_file_s_name(
    tmp_path: Path, read: Read, row: dict[str, str], array: bool
) -> None:
    file = written(tmp_path / "latin.jsonl", dict.fromkeys(row, "größer"), "latin-1", array)
    place = ".*position" if array else ", line 1: not UTF-8"  # an array is decoded as a whole
    with pytest.raises(ValueError, match=re.escape(str(file)) + place):
        read(file)


def test_a_document_that_is_not_utf_8_is_refused_with_the_file_s_name(tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_text("größer", encoding="latin-1")
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: not UTF-8 .*choose files by"):
        list(Documents(file))


@readers
@pytest.mark.parametrize("content", ["", "\n\n", "[]"], ids=["empty", "blank lines", "array"])
def test_a_file_without_rows_is_refused_with_its_name(
    tmp_path: Path, read: Read, row: dict[str, str], content: str
) -> None:
    file = tmp_path / "none.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=f"{re.escape(str(file))}: (has no rows|is empty); exp"):
        read(file)


@readers
def test_a_missing_file_is_named_in_one_sentence(
    tmp_path: Path, read: Read, row: dict[str, str]
) -> None:
    file = tmp_path / "missing.jsonl"
    with pytest.raises(FileNotFoundError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: no such file")


@pytest.mark.parametrize("name", [name for name in READERS if name != "documents"])
def test_a_folder_in_place_of_a_file_is_named_in_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(IsADirectoryError) as caught:
        READERS[name][0](tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: is a folder; expected JSONL or a JSON array")


@readers
def test_an_unreadable_file_is_named_in_one_sentence(
    tmp_path: Path, read: Read, row: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "closed.jsonl", row, "utf-8")

    def refused(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)  # root may read every file
    with pytest.raises(PermissionError) as caught:
        read(file)
    assert str(caught.value) == f"{file}: permission to read it is denied"
