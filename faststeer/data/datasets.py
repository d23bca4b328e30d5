"""Pairs and texts from datasets: rows with columns, streamed from Hugging Face, or limited.

Everything streams: a dataset is never held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any

from faststeer.data.chat import format_of
from faststeer.data.jsonl import chat_side_in

Pair = tuple[str, str]


class TextsIn:
    """The texts of one column of rows.

    Raises:
        ValueError: a row has no text there; the message names it.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], column: str) -> None:
        self.rows = rows
        self.column = column

    def __iter__(self) -> Iterator[str]:
        for number, row in enumerate(self.rows):
            yield _text(number, row, self.column)


class PairsIn:
    """Pairs (positive, negative) from two columns of rows.

    With ``chat=True`` a column may also hold lists of chat messages, for `InChat`.

    Raises:
        ValueError: a row has no texts there; the message names it.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        positive: str,
        negative: str,
        chat: bool = False,
    ) -> None:
        self.rows = rows
        self.columns = positive, negative
        self.chat = chat

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        positive, negative = self.columns
        side = _side if self.chat else _text
        for number, row in enumerate(self.rows):
            yield side(number, row, positive), side(number, row, negative)


def _text(number: int, row: Mapping[str, Any], column: str) -> str:
    _require_column(number, row, column)
    value = row[column]
    if not isinstance(value, str):
        hint = "; chat messages need --chat, or chat=True" if isinstance(value, list) else ""
        raise ValueError(
            f"row {number}: column {column!r} holds a {type(value).__name__}; expected a text{hint}"
        )
    return value


def _side(number: int, row: Mapping[str, Any], column: str) -> str | list[dict[str, str]]:
    _require_column(number, row, column)
    return chat_side_in(f"row {number}", dict(row), column)


def _require_column(number: int, row: Mapping[str, Any], column: str) -> None:
    if column not in row:
        raise ValueError(f"row {number} has no column {column!r}; it has {', '.join(row)}")


def hub_rows(
    name: str, split: str = "train", config: str | None = None, **more: Any
) -> Iterable[Mapping[str, Any]]:
    """Stream the rows of a dataset, for `PairsIn` and `TextsIn`.

    Args:
        name: of a dataset on the hub, a folder, or a builder such as "json" or "parquet" with
            ``data_files``.
        split: such as "train".
        config: the dataset's configuration, where it has several.
        more: passed to `datasets.load_dataset`.

    Raises:
        ModuleNotFoundError: the package datasets is missing.
    """
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        if error.name != "datasets":  # it is installed, but a dependency of it is missing
            raise
        raise ModuleNotFoundError(
            "datasets of the hub need the package datasets: pip install 'faststeer[data]'",
            name="datasets",
        ) from error
    found: Iterable[Mapping[str, Any]] = load_dataset(
        name, config, split=split, streaming=True, **more
    )
    return found


class First:
    """The first `limit` items of an iterable, such as pairs or documents."""

    def __init__(self, items: Iterable[Any], limit: int) -> None:
        self.items = items
        self.limit = limit
        self.chat = format_of(items)

    def __iter__(self) -> Iterator[Any]:
        """Iterate from the first item, each time that `items` can be read."""
        return islice(self.items, self.limit)


class FirstPairs(First):
    """The first `limit` pairs of an iterable, which can be read repeatedly."""

    def __init__(self, pairs: Iterable[Pair], limit: int) -> None:
        """Check the arguments. Raises TypeError for an iterator, ValueError for a limit below 1."""
        if iter(pairs) is pairs:
            raise TypeError("pairs is an iterator; they are read several times: give a list")
        if limit < 1:
            raise ValueError(f"most_pairs is {limit}; expected at least 1")
        super().__init__(pairs, limit)

    def left_out(self) -> str | None:
        """Return a sentence about the pairs that are not read; None if there are none."""
        if isinstance(self.items, Sized):
            count = max(0, len(self.items) - self.limit)
            beyond = f"{count} pairs" if count else ""
        else:
            more = next(islice(self.items, self.limit, None), None)
            beyond = "all pairs" if more is not None else ""
        if not beyond:
            return None
        return f"{beyond} beyond the first {self.limit}: most_pairs reads more"
