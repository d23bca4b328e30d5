"""A file of records is resumed, or refused and left unchanged."""

from __future__ import annotations

import pytest

from faststeer.evaluate.records import Records


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[1]\n", b"nothing\n", b'{"steering": {"v": 1}}\n', b'{"steering": {}}\n']
)
def test_a_file_of_other_content_is_refused(tmp_path, line) -> None:
    file = tmp_path / "results.jsonl"
    file.write_bytes(b'{"sweep": 1}\n' + line)
    with pytest.raises(ValueError, match=r"results.jsonl, line 2: not a record of a sweep"):
        Records(file, {"sweep": 1})
    assert file.read_bytes() == b'{"sweep": 1}\n' + line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"mine": 1}', "of another sweep: its mine is 1"),
        (b'{"mine": 1}\n{"mine": 2}', "of another sweep: its mine is 1"),
        (b"notes of my own", "line 1: not a record of a sweep"),
        (b'{"sweep": 1}\nnotes\nof my own', "line 2: not a record of a sweep"),
    ],
)
def test_a_refused_file_keeps_its_last_line_even_if_it_is_incomplete(
    tmp_path, content, message
) -> None:
    file = tmp_path / "results.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Records(file, {"sweep": 1})
    assert file.read_bytes() == content
