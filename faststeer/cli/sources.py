"""Parse the options that name what a vector is extracted from: pairs, documents or a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from faststeer.cli.chat_options import ChatOptions

PairsOption = Annotated[
    Path | None, typer.Option(help='JSONL of {"positive": ..., "negative": ...}.')
]
BehaviourOption = Annotated[
    str | None, typer.Option(help="Such as myopic, or a file of questions with two answers each.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="Your own folder of question files, for --behaviour.")
]
PositiveOption = Annotated[
    Path | None, typer.Option(help="Documents: a file, a folder, JSONL or 'src/*.py'.")
]
NegativeOption = Annotated[Path | None, typer.Option(help="Documents to contrast --positive with.")]
DatasetOption = Annotated[
    str | None, typer.Option(help="Hugging Face dataset, NAME or NAME:SPLIT.")
]
ColumnsOption = Annotated[str, typer.Option(help="Columns of --dataset: positive,negative.")]
ChatOption = Annotated[
    bool, typer.Option("--chat", help="Texts are chat messages; apply the tokenizer's template.")
]
CacheOption = Annotated[
    bool, typer.Option("--cache", help="Keep activations, and read no text a second time.")
]


@dataclass(frozen=True)
class Source:
    """The texts that the options name, checked as far as possible without a tokenizer."""

    pairs: Any = None
    positive: Any = None
    negative: Any = None
    chat: ChatOptions = field(default_factory=ChatOptions)

    @classmethod
    def from_options(
        cls,
        pairs: Path | None,
        behaviour: str | None,
        data: Path | None,
        positive: Path | None,
        negative: Path | None,
        dataset: str | None,
        columns: str,
        chat: bool,
        system: str | None = None,
        template: Sequence[str] | None = None,
    ) -> Source:
        """Build from the values of the options.

        Raises:
            ValueError: not exactly one kind of source is given, or its options do not fit.
            OSError: a file cannot be read.
        """
        from faststeer.data import Documents, PairsFile

        chats = ChatOptions.parse(chat, system, template)
        documents = None if positive is None and negative is None else (positive, negative)
        given = [kind for kind in (pairs, behaviour, dataset, documents) if kind is not None]
        if len(given) != 1 or (documents and None in documents):
            raise ValueError(
                "give one source: --pairs, --behaviour, --dataset, or --positive and --negative"
            )
        if data is not None and behaviour is None:
            raise ValueError("--data goes with --behaviour")
        if positive is not None and negative is not None:
            return cls(positive=Documents(positive), negative=Documents(negative), chat=chats)
        if pairs is not None:
            return cls(PairsFile(pairs, chat), chat=chats)
        if behaviour is not None:
            return cls(_questions(behaviour, data, chat), chat=chats)
        return cls(_dataset(dataset, columns, chat), chat=chats)

    def extract_arguments(self, tokenizer: Any, items: int | None = None) -> dict[str, Any]:
        """Return the arguments for `faststeer.extract`; `items`: the most pairs, or documents."""
        from faststeer.data import InChat, TextsInChat
        from faststeer.data.datasets import First

        given = {"pairs": self.pairs, "positive": self.positive, "negative": self.negative}
        given = {name: texts for name, texts in given.items() if texts is not None}
        if items is not None:
            given = {name: First(texts, items) for name, texts in given.items()}
        if not self.chat.chat:
            return given
        system, template = self.chat.system, self.chat.template
        for name, texts in given.items():
            kind = InChat if name == "pairs" else TextsInChat
            given[name] = kind(texts, tokenizer, system=system, template=template)
        return {**given, "add_special_tokens": False}


def _questions(behaviour: str, data: Path | None, chat: bool) -> Any:
    from faststeer.data import QuestionPairs
    from faststeer.data import behaviour as by_name

    if data is None and Path(behaviour).is_file():
        return QuestionPairs(behaviour, chat)
    found = by_name(behaviour, data)
    return QuestionPairs(found.path, chat) if chat else found


def _dataset(dataset: str | None, columns: str, chat: bool) -> Any:
    from faststeer.data import PairsIn, hub_rows

    positive, comma, negative = columns.partition(",")
    if not comma or not positive or not negative:
        raise ValueError(f"--columns {columns!r}: expected two names, such as chosen,rejected")
    name, _, split = str(dataset).partition(":")
    return PairsIn(hub_rows(name, split or "train"), positive, negative, chat)
