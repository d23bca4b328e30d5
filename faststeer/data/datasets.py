"""Pairs and texts from datasets: rows with columns, streamed from Hugging Face, or limited.

Everything streams: a dataset is never held in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any

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

    Raises:
        ValueError: a row has no texts there; the message names it.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], positive: str, negative: str) -> None:
        self.rows = rows
        self.columns = positive, negative

    def __iter__(self) -> Iterator[tuple[str, str]]:
        positive, negative = self.columns
        for number, row in enumerate(self.rows):
            yield _text(number, row, positive), _text(number, row, negative)


def _text(number: int, row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        raise ValueError(f"row {number} has no column {column!r}; it has {', '.join(row)}")
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(
            f"row {number}: column {column!r} holds a {type(value).__name__}; expected a text"
        )
    return value


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


class FirstPairs:
    """The first `limit` pairs of an iterable, which can be read repeatedly."""

    def __init__(self, pairs: Iterable[Pair], limit: int) -> None:
        """Check the arguments. Raises TypeError for an iterator, ValueError for a limit below 1."""
        if iter(pairs) is pairs:
            raise TypeError("pairs is an iterator; they are read several times: give a list")
        if limit < 1:
            raise ValueError(f"most_pairs is {limit}; expected at least 1")
        self.pairs = pairs
        self.limit = limit
        self.template = getattr(pairs, "template", None)  # of faststeer.data.InChat

    def __iter__(self) -> Iterator[Pair]:
        """Iterate from the first pair, each time."""
        return islice(self.pairs, self.limit)

    def left_out(self) -> str | None:
        """Return a sentence about the pairs that are not read; None if there are none."""
        if isinstance(self.pairs, Sized):
            count = max(0, len(self.pairs) - self.limit)
            beyond = f"{count} pairs" if count else ""
        else:
            more = next(islice(self.pairs, self.limit, None), None)
            beyond = "all pairs" if more is not None else ""
        if not beyond:
            return None
        return f"{beyond} beyond the first {self.limit}: most_pairs reads more"
