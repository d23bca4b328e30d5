"""The results of a measurement as flat dicts, of which pandas makes a table by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from faststeer.utils.text_files import read_utf8


def flat_records(record: Mapping[str, Any] | str | PathLike[str]) -> list[dict[str, Any]]:
    """Return a flat dict per phase, batch size and variant, with the model and the device.

    Args:
        record: what `diagnostics.bench.run.run` returned, or the file of `bench --output`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a record of `faststeer bench`.
    """
    name, found = "the record", record
    try:
        if isinstance(record, (str, PathLike)):
            name = str(Path(record))
            found = json.loads(read_utf8(record, "a file of faststeer bench --output"))
        content: Any = found
        model, rows = content["model"], content["results"]
        facts = {"model": model["name"], "dtype": model["dtype"], "device": content["device"]}
        return [{**facts, **row} for row in rows]
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise ValueError(f"{name}: not a record of faststeer bench") from error
