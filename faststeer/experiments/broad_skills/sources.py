"""Sources of documents: code by language, the user's texts, and documentation.

Documents are read when they are drawn; before that only their files are listed.
"""

from __future__ import annotations

import os
import random
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from faststeer.data import Documents
from faststeer.experiments.broad_skills.languages import CPLUSPLUS, PYTHON, SUFFIXES, C, code_of

T = TypeVar("T")
FEWEST_LANGUAGES = 3
DOCUMENTATION = "documentation"
_BY_STEM = {"python": PYTHON, "c": C, "cpp": CPLUSPLUS, "c++": CPLUSPLUS}
# Other packages, and a module that holds only prose.
_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "pydoc_data"}

_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|`([^`<]*?)\s*<[^>]*>`_+")
_MARKUP = re.compile(r"(?<!\w)[*`_]{1,3}(?=\w)|(?<=\w)[*`_]{1,3}(?!\w)")
_WORDS, _LETTERS = 12, 0.93  # per paragraph: fewest; the share of letters, spaces, full stops


@dataclass(frozen=True)
class Source:
    """Documents of one kind; `shuffled` yields them in an order drawn by a random generator."""

    name: str
    shuffled: Callable[[random.Random], Iterator[str]]


def text_sources(paths: Sequence[Path]) -> list[Source]:
    """Return a source per path, and one of the documentation of installed software.

    Raises:
        FileNotFoundError: nothing is at a path.
        ValueError: two paths end in one name.
    """
    own = [_texts(path.name + "/" * path.is_dir(), Documents(path)) for path in paths]
    names = [source.name for source in own]
    if len({*names, DOCUMENTATION}) <= len(names):
        raise ValueError(f"--text: the paths are named {names}; expected different names")
    return [*own, _texts(DOCUMENTATION, [text for _, text in documentation()])]


def code_sources(paths: Sequence[Path]) -> list[Source]:
    """Return a source per language, Python first, from the paths and from this machine.

    Of a folder the files of Python, C and C++ are taken; one that has none of these is a language
    of its own, whole files of any kind. So is a JSONL file that is not named after one of the
    three, such as ``rust.jsonl``. Python, C and C++ that the paths lack come from this machine.

    Raises:
        FileNotFoundError: nothing is at a path.
        ValueError: a path is a file that is not JSONL, two paths are languages of one name, or the
            machine lacks one of the three languages.
    """
    by_path = {path: _by_language([path]) for path in paths}
    own = [_own_language(path) for path, files in by_path.items() if not any(files.values())]
    names = [source.name for source in own]
    if len(set(names)) < len(names):
        raise ValueError(f"--code: the languages are named {names}; expected different names")
    sources = {
        **_code_in(_by_language(_machine())),
        **_code_in(_by_language(paths)),
        **{source.name: source for source in own},
    }
    if PYTHON not in sources or len(sources) < FEWEST_LANGUAGES:
        raise ValueError(
            f"--code: found code in {sorted(sources) or 'no language'}; expected Python and at "
            f"least {FEWEST_LANGUAGES - 1} other languages; give folders that have more"
        )
    return [sources.pop(PYTHON), *(sources[name] for name in sorted(sources))]


def documentation() -> Iterator[tuple[str, str]]:
    """Yield (name, prose) of Python's help topics and of the installed packages' descriptions."""
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        yield f"topic {topic}", prose_of(topics[topic])
    described = {}
    for distribution in metadata.distributions():
        facts: Any = distribution.metadata
        if facts is not None and facts["Name"]:
            text = facts.get_payload() or facts["Description"] or ""
            described[facts["Name"].lower()] = str(text)
    described.pop("faststeer", None)  # results must not change with its own description
    for name in sorted(described):
        yield f"package {name}", prose_of(described[name])


def prose_of(text: str) -> str:
    """Return the paragraphs of Markdown or reStructuredText that are plain sentences.

    Code, tables, lists, headings and links are left out.
    """
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


def _texts(name: str, texts: Iterable[str]) -> Source:
    def shuffled(draw: random.Random) -> Iterator[str]:
        return iter(_in_any_order(list(texts), draw))

    return Source(name, shuffled)


def _machine() -> list[Path]:
    import numpy
    from torch.utils.cpp_extension import include_paths

    return [
        Path(sysconfig.get_path("stdlib")),
        Path(sysconfig.get_path("include")),
        Path(numpy.get_include()),
        Path(include_paths()[0]),
        Path("/usr/include"),
    ]


def _by_language(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of Python, C and C++ in some folders."""
    files: dict[str, list[Path]] = {language: [] for language in SUFFIXES}
    for folder in folders:
        for place, below, names in os.walk(folder):
            below[:] = sorted(set(below) - _LEFT_OUT)
            for name in sorted(names):
                for language, suffixes in SUFFIXES.items():
                    if name.lower().endswith(suffixes):
                        files[language].append(Path(place, name))
    return files


def _code_in(files: Mapping[str, list[Path]]) -> dict[str, Source]:
    return {language: _code(language, there) for language, there in files.items() if there}


def _own_language(path: Path) -> Source:
    """Return the source of a JSONL file, or of a folder in another language."""
    if path.is_file() and path.suffix.lower() not in (".jsonl", ".json"):
        raise ValueError(
            f"--code {path}: expected a folder, or a JSONL file named after a language, such as "
            "rust.jsonl"
        )
    name = _BY_STEM.get(path.stem.lower(), path.stem) if path.is_file() else path.name
    return _texts(name, Documents(path))


def _code(language: str, files: list[Path]) -> Source:
    def shuffled(draw: random.Random) -> Iterator[str]:
        for file in _in_any_order(files, draw):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except (UnicodeDecodeError, PermissionError):
                continue  # test data in other encodings
            code = code_of(language, text)
            if code is not None:
                yield code

    return Source(language, shuffled)


def _in_any_order(items: Sequence[T], draw: random.Random) -> list[T]:
    order = list(range(len(items)))
    draw.shuffle(order)
    return [items[at] for at in order]
