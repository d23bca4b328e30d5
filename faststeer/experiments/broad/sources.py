"""Where documents come from: files of code by language, texts of the user's, documentation.

Nothing is read here but what tells whether there is anything; documents are read when drawn.
"""

from __future__ import annotations

import os
import random
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from faststeer.data import Documents
from faststeer.data.jsonl import read_texts
from faststeer.experiments.broad.documentation import documentation
from faststeer.experiments.broad.languages import LANGUAGES, PYTHON, Language, code_of

T = TypeVar("T")
FEWEST_LANGUAGES = 3
DOCUMENTATION = "documentation"
# Other packages, and a module that holds nothing but prose.
_LEFT_OUT = {"site-packages", "dist-packages", "__pycache__", "pydoc_data"}


@dataclass(frozen=True)
class Source:
    """Documents of one kind: `shuffled` gives them in an order of a random generator's."""

    name: str
    shuffled: Callable[[random.Random], Iterator[str]]


def text_sources(paths: Sequence[Path]) -> list[Source]:
    """One for each path, and the documentation of what is installed.

    Raises:
        FileNotFoundError: nothing is at a path.
        ValueError: two paths that end in one name.
    """
    own = [_texts(path.name + "/" * path.is_dir(), Documents(path)) for path in paths]
    names = [source.name for source in own]
    if len({*names, DOCUMENTATION}) <= len(names):
        raise ValueError(f"--text: the paths are named {names}; expected different names")
    return [*own, _texts(DOCUMENTATION, [text for _, text in documentation()])]


def code_sources(paths: Sequence[Path]) -> list[Source]:
    """One a language, Python first: of the paths', and by default of what lies on this machine.

    A language that the paths have is taken from them. A JSONL file holds texts of the language
    that it is named after, such as ``rust.jsonl``; of a folder, names of files tell.

    Raises:
        FileNotFoundError: nothing is at a path.
        ValueError: a JSONL file is named after no language, or there are too few languages.
    """
    sources = _found(paths)
    for name, source in _found([place for place in _machine() if place.is_dir()]).items():
        sources.setdefault(name, source)
    if PYTHON not in sources or len(sources) < FEWEST_LANGUAGES:
        raise ValueError(
            f"--code: found code in {sorted(sources) or 'no language'}; expected Python and at "
            f"least {FEWEST_LANGUAGES - 1} other languages; give folders that have more"
        )
    return [sources.pop(PYTHON), *(sources[name] for name in sorted(sources))]


def _texts(name: str, texts: Documents | Sequence[str]) -> Source:
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


def _found(paths: Sequence[Path]) -> dict[str, Source]:
    """Sources by language."""
    files: dict[str, list[Path]] = {}
    sources: dict[str, Source] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
        if path.is_file():
            language = _named(path)
            sources[language.name] = _texts(language.name, list(read_texts(path)))
            continue
        for file in _files(path):
            for language in _BY_SUFFIX.get(file.suffix.lower(), ()):
                files.setdefault(language.name, []).append(file)
    for language in LANGUAGES:
        if language.name in files and language.name not in sources:
            sources[language.name] = _code(language, files[language.name])
    return sources


def _code(language: Language, files: list[Path]) -> Source:
    def shuffled(draw: random.Random) -> Iterator[str]:
        for file in _in_any_order(files, draw):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except (UnicodeDecodeError, PermissionError):
                continue  # nobody's text: test data in strange encodings
            code = code_of(language, text)
            if code is not None:
                yield code

    return Source(language.name, shuffled)


def _named(path: Path) -> Language:
    """The language that a JSONL file is named after."""
    stem = {"cpp": "c++", "csharp": "c#"}.get(path.stem.lower(), path.stem.lower())
    for language in LANGUAGES:
        if language.name.lower() == stem and path.suffix.lower() in (".jsonl", ".json"):
            return language
    raise ValueError(
        f"--code {path}: expected a folder, or a JSONL file named after a language, such as "
        "rust.jsonl"
    )


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        yield from (Path(place, name) for name in sorted(names))


def _in_any_order(items: Sequence[T], draw: random.Random) -> list[T]:
    order = list(range(len(items)))
    draw.shuffle(order)
    return [items[at] for at in order]


_BY_SUFFIX: dict[str, list[Language]] = {}
for _language in LANGUAGES:
    for _suffix in _language.suffixes:
        _BY_SUFFIX.setdefault(_suffix, []).append(_language)
