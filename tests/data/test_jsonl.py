from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from faststeer.data.jsonl import PairsFile, read_texts


def test_pairs_come_in_the_order_of_the_lines_and_can_be_read_repeatedly(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pairs = [("gut, größer", "schlecht"), ("良い", "悪い\n"), ("", "🙂")]
    records = [{"positive": a, "negative": b, "more": [1]} for a, b in pairs]
    file.write_text("".join(json.dumps(r) + "\n\n" for r in records), encoding="utf-8")
    read = PairsFile(file)
    assert len(read) == 3
    assert list(read) == pairs == list(read)


def test_texts_may_have_windows_line_endings(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_bytes(b'{"text": "a\xc3\xbc"}\r\n{"text": "b\\u2028c"}\r\n')
    assert list(read_texts(file)) == ["aü", "b\u2028c"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"positive": "a"', "not JSON"),
        (b"\xff\xfe", "not UTF-8 ('utf-8' codec can't decode byte 0xff"),
        (b"[" * 100_000, "not JSON (maximum recursion depth exceeded"),
        (b"1" * 5000, "not JSON (Exceeds the limit"),
        (b'["a", "b"]', "expected an object with a text under 'positive'"),
        (b'{"positive": "a"}', "expected an object with a text under 'negative'"),
        (b'{"positive": 3, "negative": "b"}', "expected an object with a text under 'positive'"),
        (b"null", "expected an object with a text under 'positive'"),
    ],
    ids=["cut off", "no UTF-8", "deep", "long number", "a list", "no negative", "a number", "null"],
)
def test_a_bad_line_is_reported_at_once_with_its_number(
    tmp_path: Path, line: bytes, message: str
) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes(b'{"positive": "a", "negative": "b"}\n\n' + line + b"\n")
    with pytest.raises(ValueError, match=re.escape(f"{file}, line 3: {message}")):
        PairsFile(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl"):
        PairsFile(tmp_path / "none.jsonl")
