"""What the plugin is configured with, by vLLM's `additional_config` or by the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = "faststeer"  # in `additional_config`, and in the arguments of a request
FOLDER_VARIABLE = "FASTSTEER_VECTORS"

_OPTIONS = ("vectors", "layers", "terms", "capacity", "capture", "capture_groups")


@dataclass(frozen=True)
class Configuration:
    """The vectors to serve, and the room for what requests may ask.

    Args:
        folder: whose ``*.safetensors`` and ``*.gguf`` files are the vectors, named as the files.
            None, with `layers` or `capture`, for an engine that starts without vectors.
        layers: steered at ``resid_post`` although no vector of the folder has them, for vectors
            that are added later.
        terms: K, the most entries that act on one token at one site: an addition or a projection
            takes one, a clamp two, a cap one per bound, a kept norm one.
        capacity: the most vectors that are held at a time, those of running requests that have been
            removed or replaced among them. Default: twice the vectors of the folder, at least 8.
        capture: layers whose statistics `faststeer.vllm.capture` may read.
        capture_groups: the most texts that `faststeer.vllm.extract` reads at a time. A layer's
            statistics take 16 bytes per group and hidden unit.
    """

    folder: Path | None
    layers: tuple[int, ...] = ()
    terms: int = 8
    capacity: int | None = None
    capture: tuple[int, ...] = ()
    capture_groups: int = 64

    @property
    def reserved(self) -> tuple[int, ...]:
        """The layers whose ``resid_post`` is a site although no vector may have them."""
        return tuple(sorted({*self.layers, *self.capture}))

    @classmethod
    def of(cls, additional: Mapping[str, Any] | None) -> Configuration | None:
        """Return what `additional_config` or the environment configures; None for nothing.

        Raises:
            ValueError: an unknown option, or a value that is not one.
        """
        given = (additional or {}).get(KEY)
        if given is None:
            folder = os.environ.get(FOLDER_VARIABLE)
            return cls(Path(folder)) if folder else None
        if not isinstance(given, Mapping):
            raise ValueError(
                f"additional_config[{KEY!r}] is a {type(given).__name__}; expected an object such "
                'as {"vectors": "folder"}'
            )
        if unknown := set(given) - set(_OPTIONS):
            raise ValueError(
                f"additional_config[{KEY!r}] has {', '.join(sorted(map(str, unknown)))}; expected "
                f"some of {', '.join(_OPTIONS)}"
            )
        folder = given.get("vectors", os.environ.get(FOLDER_VARIABLE))
        if folder is not None and not isinstance(folder, (str, Path)):
            raise ValueError(f"vectors is {folder!r}; expected the folder of the vectors")
        found = cls(
            None if folder is None else Path(folder),
            _layer_numbers(given, "layers"),
            _count(given, "terms", 8),
            _count(given, "capacity", None),
            _layer_numbers(given, "capture"),
            _count(given, "capture_groups", 64),
        )
        if folder is None and not found.reserved:
            raise ValueError(
                f"additional_config[{KEY!r}] needs vectors, the folder of the vectors; or layers, "
                "or capture, the layers whose statistics are read"
            )
        return found


def _layer_numbers(given: Mapping[str, Any], option: str) -> tuple[int, ...]:
    numbers = given.get(option, ())
    if not isinstance(numbers, (list, tuple)) or not all(type(n) is int for n in numbers):
        raise ValueError(f"{option} is {numbers!r}; expected a list of layer numbers")
    return tuple(sorted(set(numbers)))


def _count(given: Mapping[str, Any], option: str, default: int | None) -> Any:
    number = given.get(option, default)
    if number is not None and (type(number) is not int or number < 1):
        raise ValueError(f"{option} is {number!r}; expected a number above 0")
    return number
