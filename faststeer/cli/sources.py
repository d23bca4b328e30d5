"""Parse the options that name what a vector is extracted from: pairs, documents or a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

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
    bool, typer.Option("--chat", help="Pairs are chat messages; apply the tokenizer's template.")
]


@dataclass(frozen=True)
class Source:
    """The texts that the options name, checked as far as possible without a tokenizer."""

    pairs: Any = None
    positive: Any = None
    negative: Any = None
    chat: bool = False

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
    ) -> Source:
        """Build from the values of the options.

        Raises:
            ValueError: not exactly one kind of source is given, or its options do not fit.
            OSError: a file cannot be read.
        """
        from faststeer.data import Documents, PairsFile

        documents = None if positive is None and negative is None else (positive, negative)
        given = [kind for kind in (pairs, behaviour, dataset, documents) if kind is not None]
        if len(given) != 1 or (documents and None in documents):
            raise ValueError(
                "give one source: --pairs, --behaviour, --dataset, or --positive and --negative"
            )
        if data is not None and behaviour is None:
            raise ValueError("--data goes with --behaviour")
        if positive is not None and negative is not None:
            if chat:
                raise ValueError("--chat goes with pairs, not with --positive and --negative")
            return cls(positive=Documents(positive), negative=Documents(negative))
        if pairs is not None:
            return cls(PairsFile(pairs, chat), chat=chat)
        rows = _questions(behaviour, data) if behaviour is not None else _dataset(dataset, columns)
        return cls(rows, chat=chat)

    def extract_arguments(self, tokenizer: Any) -> dict[str, Any]:
        """Return the arguments for `faststeer.extract`."""
        if self.positive is not None:
            return {"positive": self.positive, "negative": self.negative}
        if not self.chat:
            return {"pairs": self.pairs}
        from faststeer.data import InChat

        return {"pairs": InChat(self.pairs, tokenizer), "add_special_tokens": False}


def _questions(behaviour: str, data: Path | None) -> Any:
    from faststeer.data import QuestionPairs
    from faststeer.data import behaviour as by_name

    if data is None and Path(behaviour).is_file():
        return QuestionPairs(behaviour)
    return by_name(behaviour, data)


def _dataset(dataset: str | None, columns: str) -> Any:
    from faststeer.data import PairsIn, hub_rows

    positive, comma, negative = columns.partition(",")
    if not comma or not positive or not negative:
        raise ValueError(f"--columns {columns!r}: expected two names, such as chosen,rejected")
    name, _, split = str(dataset).partition(":")
    return PairsIn(hub_rows(name, split or "train"), positive, negative)
