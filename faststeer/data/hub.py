"""Hugging Face datasets as rows that stream, where the package is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def hub_rows(
    name: str, split: str = "train", config: str | None = None, **more: Any
) -> Iterable[Mapping[str, Any]]:
    """The rows of a dataset, for `PairsIn` and `TextsIn`; nothing is downloaded as a whole.

    Args:
        name: on the hub, a folder, or a builder such as "json" or "parquet" with ``data_files``.
        split: such as "train".
        config: the dataset's configuration, where it has several.
        more: passed to `datasets.load_dataset`.

    Raises:
        ModuleNotFoundError: the package datasets is missing.
    """
    try:
        from datasets import load_dataset
    except ModuleNotFoundError as error:
        if error.name != "datasets":  # it is installed, and lacks something itself
            raise
        raise ModuleNotFoundError(
            "datasets of the hub need the package datasets: pip install 'faststeer[data]'",
            name="datasets",
        ) from error
    found: Iterable[Mapping[str, Any]] = load_dataset(
        name, config, split=split, streaming=True, **more
    )
    return found
