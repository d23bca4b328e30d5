"""Files of cached activations: a safetensors file per batch of texts, with a checksum per layer."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from faststeer.utils.files import cache_folder
from faststeer.utils.limited_folder import LimitedFolder

FORMAT = "faststeer activations"
FORMAT_VERSION = "2"
LIMIT_VARIABLE = "FASTSTEER_CACHE_LIMIT"
DEFAULT_LIMIT = 4.0  # GiB
Cache = bool | str | PathLike[str]
_DAMAGE = (SafetensorError, OSError, ValueError, KeyError, TypeError)  # of damaged files


class LayerRows(NamedTuple):
    """What was read of B texts at one layer.

    `rows` ``[B, ...]`` are on the device on which they were read. `left_out` ``[n, 2]`` int32 holds
    text and column of the positions left out as attention sinks, `only_sinks` ``[m]`` int32 the
    texts of which nothing else was read.
    """

    rows: Tensor
    left_out: Tensor
    only_sinks: Tensor


@dataclass
class Entry:
    """What was read of one batch: by layer, and whether its decoder can be padded, if measured."""

    layers: dict[int, LayerRows] = field(default_factory=dict)
    pads: bool | None = None


class CacheFiles:
    """Entries and notes by their keys, each a SHA-256 in hexadecimal digits."""

    def __init__(self, cache: Cache) -> None:
        """Open the folder; True is faststeer's own.

        Raises:
            TypeError: neither a bool nor a path.
            ValueError: FASTSTEER_CACHE_LIMIT is not a number of GiB.
            OSError: the folder cannot be created.
        """
        if not isinstance(cache, (bool, str, PathLike)):
            raise TypeError(f"cache is {cache!r}; expected True, False or a folder")
        folder = cache_folder() / "activations" if isinstance(cache, bool) else Path(cache)
        self.folder = LimitedFolder(folder, _limit())
        self.damaged: list[str] = []
        self.unwritten: list[str] = []
        self.full = 0  # entries that were not kept

    def load(self, key: str, layers: Sequence[int] | None = None) -> Entry:
        """Return an entry, of some layers or of all; empty where there is none, or a damaged one.

        Layers that the entry lacks are left out.
        """
        path = self.folder.find(f"{key}.safetensors")
        entry = Entry()
        if path is None:
            return entry
        try:
            with _opened(path, key) as (opened, content):
                if content["pads"] not in (True, False, None):
                    raise ValueError(f"'pads' is {content['pads']!r}")
                stored = {int(layer): facts for layer, facts in content["layers"].items()}
                for layer in stored if layers is None else stored.keys() & set(layers):
                    entry.layers[layer] = _read_layer(opened, layer, stored[layer])
                entry.pads = content["pads"]
        except FileNotFoundError:  # another process removed it
            return Entry()
        except _DAMAGE as error:
            self.damaged.append(f"{path} ({error})")
            return Entry()
        return entry

    def store(self, key: str, entry: Entry) -> None:
        """Write an entry in place of the one that is there."""
        header: dict[str, Any] = {"pads": entry.pads, "layers": {}}
        tensors: dict[str, Tensor] = {}
        for layer, own in entry.layers.items():
            parts = LayerRows(*(part.detach().cpu().contiguous() for part in own))
            tensors |= {f"{layer}.{name}": t for name, t in parts._asdict().items()}
            header["layers"][str(layer)] = {"device": str(own.rows.device), "crc32": _crc(parts)}
        self._write(key, header, tensors)

    def load_note(self, key: str) -> str | None:
        """Return a text; None where there is none, or a damaged one."""
        path = self.folder.find(f"{key}.safetensors")
        if path is None:
            return None
        try:
            with _opened(path, key) as (_, content):
                return str(content["note"])
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            self.damaged.append(f"{path} ({error})")
            return None

    def store_note(self, key: str, note: str) -> None:
        """Write a text."""
        self._write(key, {"note": note}, {})

    def messages(self) -> list[str]:
        """Return what to warn of."""
        found = []
        if self.damaged:
            found.append(
                f"{len(self.damaged)} files of cached activations are damaged, first "
                f"{self.damaged[0]}: what they held was computed again"
            )
        if self.unwritten:
            found.append(f"activations could not be cached: {self.unwritten[0]}")
        if self.full:
            limit = self.folder.limit / 2**30
            found.append(
                f"activations of {self.full} batches were not cached: the others of this run fill "
                f"the limit of {limit:g} GiB, which {LIMIT_VARIABLE} sets"
            )
        return found

    def _write(self, key: str, content: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        text = json.dumps(content)
        facts = {"version": FORMAT_VERSION, "key": key, "crc32": zlib.crc32(text.encode())}
        header = {FORMAT: json.dumps(facts | {"content": text})}  # one entry: several have no order
        try:
            self.full += not self.folder.write(f"{key}.safetensors", save(tensors, header))
        except OSError as error:  # a full disk, a folder that is read only
            self.unwritten.append(str(error))


@contextmanager
def _opened(path: Path, key: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield an open file and the content of its header. Raises as `_DAMAGE`."""
    with safe_open(os.fspath(path), framework="pt") as opened:
        header = json.loads((opened.metadata() or {})[FORMAT])
        if (header["version"], header["key"]) != (FORMAT_VERSION, key):
            raise ValueError(f"it is version {header['version']} of {header['key']}")
        if header["crc32"] != zlib.crc32(header["content"].encode()):
            raise ValueError("the checksum of its header does not match")
        yield opened, json.loads(header["content"])


def _read_layer(opened: Any, layer: int, facts: dict[str, Any]) -> LayerRows:
    parts = LayerRows(*(opened.get_tensor(f"{layer}.{name}") for name in LayerRows._fields))
    if _crc(parts) != facts["crc32"]:
        raise ValueError(f"the checksum of layer {layer} does not match")
    return parts._replace(rows=parts.rows.to(facts["device"]))


def _crc(parts: LayerRows) -> int:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part.flatten().view(torch.uint8).numpy().data, crc)
    return crc


def _limit() -> int:
    """Return the limit in bytes of all cached activations of a folder."""
    given = os.environ.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT))
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not (math.isfinite(limit) and limit > 0):
        raise ValueError(f"{LIMIT_VARIABLE} is {given!r}; expected a number of GiB above 0")
    return int(limit * 2**30)
