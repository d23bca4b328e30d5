"""Choose a vector's file format: by its content for reading, by its name for writing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from faststeer.utils.text_files import open_file
from faststeer.vectors.formats import (
    assistant_axis,
    caa,
    gguf,
    lm_eval,
    safetensors_file,
    stacked,
    svec,
)
from faststeer.vectors.formats.pt_file import load_plain
from faststeer.vectors.formats.vector_data import VectorData

_ENCODERS = {
    "safetensors": safetensors_file.encode,
    "gguf": gguf.encode,
    "lm-eval": lm_eval.encode,
}
FORMATS = ("safetensors", "gguf", "caa", "lm-eval")
_BY_SUFFIX = {".safetensors": "safetensors", ".gguf": "gguf", ".pt": "caa"}


def encode(vector: VectorData, path: Path, file_format: str | None) -> dict[Path, bytes]:
    """Return the files to write and the content of each; see `SteeringVector.save`.

    Args:
        vector: what to write.
        path: a file, or a folder for CAA's files.
        file_format: one of `FORMATS`; None chooses by `path`.

    Raises:
        ValueError: an unknown format, or one that cannot hold the vector.
    """
    if file_format is None:
        file_format = "caa" if path.is_dir() else _BY_SUFFIX.get(path.suffix.lower())
        if file_format is None:
            raise ValueError(
                f"its suffix {path.suffix!r} states no format; expected one of "
                f"{', '.join(_BY_SUFFIX)}, or a format: {', '.join(FORMATS)}"
            )
    if file_format == "caa":
        return caa.encode(vector, path)
    if file_format not in _ENCODERS:
        raise ValueError(f"format {file_format!r} is unknown; expected one of {', '.join(FORMATS)}")
    return {path: _ENCODERS[file_format](vector)}


def decode(
    path: Path,
    layer: int | None,
    shift: bool,
    rows: str | None,
    model: str | None,
    experiment: str | None = None,
) -> VectorData:
    """Read a file of any format, or a folder of CAA's files; see `SteeringVector.load`.

    Raises:
        OSError: the file cannot be opened; the message names it.
        ValueError: it is damaged or no vector, or the arguments do not apply to it; the message
            does not name the file.
    """
    if rows is not None and rows not in stacked.ROWS:
        raise ValueError(f"rows {rows!r} is unknown; expected one of {', '.join(stacked.ROWS)}")
    kind = _kind(path)
    if shift and kind != "gguf":
        raise ValueError("only GGUF files of llama.cpp's cvector-generator are shifted")
    if rows is not None and kind != "pt":
        raise ValueError("only a .pt with one tensor [N, H] has rows")
    if model is not None and kind != "folder":
        raise ValueError("only a folder of CAA's files has vectors of several models")
    if experiment is not None and kind != "pt":
        raise ValueError("only a capping_config.pt of assistant-axis has experiments")
    if kind == "gguf":
        return gguf.decode(path, shift)
    if kind == "folder":
        return caa.decode_folder(path, model)
    if kind == "safetensors":
        return safetensors_file.decode(path)
    if kind == "svec":
        return svec.decode(path)
    content: Any = load_plain(path)
    if isinstance(content, dict) and assistant_axis.holds_caps(content):
        if rows is not None:
            raise ValueError("only a .pt with one tensor [N, H] has rows")
        return assistant_axis.decode(path, content, experiment)
    if experiment is not None:
        raise ValueError("only a capping_config.pt of assistant-axis has experiments")
    if isinstance(content, Tensor) and content.dim() == 2:
        return stacked.decode(path, content, layer, rows)
    if rows is not None:
        raise ValueError("only a .pt with one tensor [N, H] has rows")
    if isinstance(content, Tensor):
        return caa.decode(path, content, layer)
    if isinstance(content, dict):
        return lm_eval.decode(path, content)
    raise ValueError(
        f"holds a {type(content).__name__}; expected a tensor [H] (CAA), a tensor [N, H] (persona "
        "vectors), a dict of hookpoints (lm-eval) or of capped vectors (assistant-axis)"
    )


def decode_bytes(content: bytes) -> VectorData:
    """Read the content of a safetensors or GGUF file, the formats that hold nothing but data.

    Raises:
        ValueError: it is damaged, no vector, or of another format.
    """
    if content.startswith(b"GGUF"):
        read: Callable[[Path], VectorData] = partial(gguf.decode, shift=False)
    elif content[8:9] == b"{":
        read = safetensors_file.decode
    else:
        raise ValueError("neither a safetensors nor a GGUF file")
    with tempfile.TemporaryDirectory() as folder:  # readers map files
        file = Path(folder) / "vector"
        file.write_bytes(content)
        return read(file)


def _kind(file: Path) -> str:
    if file.is_dir():
        return "folder"
    with open_file(file, "a vector's file, or a folder of CAA's") as opened:
        start = opened.read(16)
    if not start:
        raise ValueError("is empty; expected a vector's file")
    if start.startswith(b"GGUF"):
        return "gguf"
    if start.startswith(b"PK\x03\x04"):
        return "pt"
    if svec.is_json_object(start):
        return "svec"
    if start[8:9] == b"{":
        return "safetensors"
    by_name = _BY_SUFFIX.get(file.suffix.lower())
    if by_name is None:
        raise ValueError("not a vector's file: neither safetensors, GGUF, .pt nor .svec")
    return "pt" if by_name == "caa" else by_name
