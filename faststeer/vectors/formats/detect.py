"""Which format a file is in, by what it begins with; in which one is written, by its name."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from faststeer.utils.text_files import open_file
from faststeer.vectors.formats import caa, gguf, lm_eval, safetensors_file, stacked, svec
from faststeer.vectors.formats.pt_file import load_plain
from faststeer.vectors.steering_vector import SteeringVector

WRITERS = {
    "safetensors": safetensors_file.save,
    "gguf": gguf.save,
    "caa": caa.save,
    "lm-eval": lm_eval.save,
}
_BY_SUFFIX = {".safetensors": "safetensors", ".gguf": "gguf", ".pt": "caa"}


def save(vector: SteeringVector, path: str | PathLike[str], file_format: str | None = None) -> None:
    """Write `vector` as one of `WRITERS`, by default what `path` ends in; a folder is for CAA's."""
    if file_format is None:
        target = Path(path)
        file_format = "caa" if target.is_dir() else _BY_SUFFIX.get(target.suffix.lower())
        if file_format is None:
            raise ValueError(
                f"{path}: its ending says no format; expected one of {', '.join(_BY_SUFFIX)}, or a "
                f"format: {', '.join(WRITERS)}"
            )
    elif file_format not in WRITERS:
        raise ValueError(f"format {file_format!r} is unknown; expected one of {', '.join(WRITERS)}")
    WRITERS[file_format](vector, path)


def load(
    path: str | PathLike[str], layer: int | None, shift: bool, rows: str | None
) -> SteeringVector:
    """Read a file of any format, or a folder of CAA's files. See `SteeringVector.load`."""
    file = Path(path)
    if rows is not None and rows not in stacked.ROWS:
        raise ValueError(f"rows {rows!r} is unknown; expected one of {', '.join(stacked.ROWS)}")
    kind = _kind(file)
    if shift and kind != "gguf":
        raise ValueError(f"{file}: only GGUF files of llama.cpp's cvector-generator are shifted")
    if rows is not None and kind != "pt":
        raise ValueError(f"{file}: only a .pt with one tensor [N, H] has rows")
    if kind == "gguf":
        vector = gguf.load(file, shift)
    elif kind == "folder":
        vector = caa.load_folder(file)
    elif kind == "safetensors":
        vector = safetensors_file.load(file)
    elif kind == "svec":
        vector = svec.load(file)
    else:
        content: Any = load_plain(file)
        if isinstance(content, Tensor) and content.dim() == 2:
            return stacked.from_tensor(file, content, layer, rows)
        if rows is not None:
            raise ValueError(f"{file}: only a .pt with one tensor [N, H] has rows")
        if isinstance(content, Tensor):
            return caa.from_tensor(file, content, layer)
        if not isinstance(content, dict):
            raise ValueError(
                f"{file}: holds a {type(content).__name__}; expected a tensor [H] (CAA), a tensor "
                "[N, H] (persona vectors) or a dict of hookpoints (lm-eval)"
            )
        vector = lm_eval.from_dict(file, content)
    return vector if layer is None else vector.select([layer])


def _kind(file: Path) -> str:
    if file.is_dir():
        return "folder"
    with open_file(file, "a vector's file, or a folder of CAA's") as opened:
        start = opened.read(16)
    if not start:
        raise ValueError(f"{file}: is empty; expected a vector's file")
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
        raise ValueError(f"{file}: not a vector's file: no safetensors, GGUF, .pt or .svec")
    return "pt" if by_name == "caa" else by_name
