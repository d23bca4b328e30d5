"""The arrays of a sparse autoencoder's file, read row by row: safetensors, and NumPy's ``.npz``.

Neither goes through pickle.
"""

from __future__ import annotations

import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from faststeer.utils.text_files import open_file

_GROWTH = 4  # an array that unpacks to more of its file is not weights


class SaeArrays(ABC):
    """Named arrays; W_enc is ``[d_in, d_sae]`` and W_dec ``[d_sae, d_in]``."""

    names: frozenset[str]

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape. Raises ValueError without it."""

    @abstractmethod
    def _slice(self, name: str, index: Any) -> Tensor:
        """Return a part of an array that exists."""

    def require_shapes(self, width: int | None, features: int | None) -> None:
        """Raise ValueError unless the matrices fit each other, and the numbers that are stated."""
        encoder, decoder = self.shape("W_enc"), self.shape("W_dec")  # whose row is read next
        if len(decoder) != 2 or encoder != decoder[::-1]:
            raise ValueError(
                f"W_enc is {list(encoder)} and W_dec {list(decoder)}; expected [d_in, d_sae] and "
                "[d_sae, d_in]"
            )
        if decoder != (features or decoder[0], width or decoder[1]):
            raise ValueError(
                f"W_dec is {list(decoder)}, and the configuration states d_sae {features} and "
                f"d_in {width}"
            )

    def row(self, name: str, index: int) -> Tensor:
        """Return a row, float32."""
        return self._slice(name, index).float()

    def column(self, name: str, index: int) -> Tensor:
        """Return a column, float32."""
        return self._slice(name, (slice(None), index)).float()

    def whole(self, name: str) -> Tensor:
        """Return a vector as long as the stream is wide. Raises ValueError for another length."""
        length = self.shape("W_dec")[1]
        if self.shape(name) != (length,):
            raise ValueError(f"{name} is {list(self.shape(name))}; expected [{length}]")
        return self._slice(name, slice(None)).float()

    def tensor_number(self, name: str, feature: int) -> Tensor:
        """Return a feature's number of an array ``[d_sae]``, as a tensor without dimensions."""
        count = self.shape("W_dec")[0]
        if self.shape(name) != (count,):
            raise ValueError(f"{name} is {list(self.shape(name))}; expected [{count}]")
        found = self._slice(name, slice(feature, feature + 1)).double()[0]
        if not found.isfinite():
            raise ValueError(f"{name} of feature {feature} is {float(found)}")
        return found

    def number(self, name: str, feature: int) -> float:
        """Return a feature's number of an array ``[d_sae]``."""
        return float(self.tensor_number(name, feature))

    def _require(self, name: str) -> None:
        if name not in self.names:
            raise ValueError(f"has no {name}; it has {', '.join(sorted(self.names))[:200]}")


class _Safetensors(SaeArrays):
    def __init__(self, opened: Any) -> None:
        self.opened = opened
        self.names = frozenset(opened.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        self._require(name)
        return tuple(self.opened.get_slice(name).get_shape())

    def _slice(self, name: str, index: Any) -> Tensor:
        part: Tensor = self.opened.get_slice(name)[index]
        return part


class _Npz(SaeArrays):
    """Arrays of an ``.npz``; the matrix that was read last stays in memory."""

    def __init__(self, opened: Any) -> None:
        self.opened = opened
        self.stored = {f"W_{key[2:]}" if key.startswith("w_") else key: key for key in opened.files}
        self.names = frozenset(self.stored)
        self.loaded: tuple[str, Tensor] | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}  # of the arrays that were read

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self.shapes:
            self._array(name)
        return self.shapes[name]

    def _slice(self, name: str, index: Any) -> Tensor:
        return self._array(name)[index]

    def _array(self, name: str) -> Tensor:
        self._require(name)
        if self.loaded is None or self.loaded[0] != name:
            array = self.opened[self.stored[name]]
            if array.dtype.kind != "f":
                raise ValueError(f"{name} holds {array.dtype}; expected floating point")
            self.loaded = name, torch.from_numpy(np.ascontiguousarray(array))
            self.shapes[name] = tuple(array.shape)
        return self.loaded[1]


@contextmanager
def arrays_of(file: Path) -> Iterator[SaeArrays]:
    """Open the arrays of a ``.safetensors`` or ``.npz`` file.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is damaged.
    """
    open_file(file, "the arrays of a sparse autoencoder").close()
    if file.suffix == ".npz":
        yield from _npz_arrays(file)
        return
    try:
        with safe_open(os.fspath(file), framework="pt") as opened:
            yield _Safetensors(opened)
    except SafetensorError as error:
        raise ValueError(f"{file.name} is not a readable safetensors file ({error})") from error


def _npz_arrays(file: Path) -> Iterator[SaeArrays]:
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > _GROWTH * file.stat().st_size:
            raise ValueError(
                f"its arrays are {unpacked:,} bytes, more than {_GROWTH} times its own"
            )
        with np.load(file, allow_pickle=False) as opened:
            yield _Npz(opened)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{file.name} is not a readable .npz file ({error})") from error
