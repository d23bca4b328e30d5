"""English prose that every machine with Python has: what installed software says of itself.

The second source of text beside the user's. Only whole paragraphs are taken: code, tables, lists,
headings and links are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|`([^`<]*?)\s*<[^>]*>`_+")
_MARKUP = re.compile(r"(?<!\w)[*`_]{1,3}(?=\w)|(?<=\w)[*`_]{1,3}(?!\w)")
_WORDS, _LETTERS = 12, 0.93  # of a paragraph: fewest; the share of letters, spaces and full stops


def documentation() -> Iterator[tuple[str, str]]:
    """(name, text) of Python's help topics and of the installed packages' descriptions."""
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield f"topic {topic}", prose_of(topics[topic])
    described = {}
    for distribution in metadata.distributions():
        facts: Any = distribution.metadata
        if facts is not None and facts["Name"]:
            text = facts.get_payload() or facts["Description"] or ""
            described[facts["Name"].lower()] = str(text)
    described.pop("faststeer", None)  # results are not to change with what it says of itself
    for name in sorted(described):
        yield f"package {name}", prose_of(described[name])


def prose_of(text: str) -> str:
    """The paragraphs of Markdown or reStructuredText that are plain sentences."""
    blocks = re.split(r"\n\s*\n", _FENCED.sub("", text.replace("\r\n", "\n")))
    paragraphs = (_paragraph(block) for block in blocks)
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _paragraph(block: str) -> str | None:
    lines = block.strip("\n").split("\n")
    if any(line[:1].isspace() for line in lines) or not lines[0][:1].isalpha():
        return None
    words = _MARKUP.sub("", _LINK.sub(r"\1\2", " ".join(lines))).split()
    joined = " ".join(words)
    plain = sum(letter.isalpha() or letter in " .,'" for letter in joined)
    whole = joined.endswith((".", "!", "?")) and "://" not in joined
    return joined if whole and len(words) >= _WORDS and plain >= _LETTERS * len(joined) else None
