"""A model's folder, written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from faststeer.models.loading import Loaded


def require_free(folder: Path) -> None:
    """Raise FileExistsError for what is no empty folder, FileNotFoundError without a parent."""
    if not folder.parent.is_dir():
        raise FileNotFoundError(f"{folder}: the folder {folder.parent} does not exist")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder; give another")


def save(loaded: Loaded, folder: Path) -> None:
    """Save the model, and its tokenizer if it has one, beside `folder`, then rename.

    Raises:
        FileExistsError: `folder` is there and is not an empty folder.
        FileNotFoundError: its parent does not exist.
    """
    folder = folder.resolve()
    require_free(folder)
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        part = beside / folder.name  # mkdtemp's own is closed to others
        part.mkdir()
        model: Any = loaded.model
        model.save_pretrained(part)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(part)
        part.rename(folder)  # an empty folder gives way
    finally:
        shutil.rmtree(beside, ignore_errors=True)
