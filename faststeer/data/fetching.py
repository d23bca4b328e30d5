"""Downloads of datasets from pinned addresses, verified by SHA-256 before they are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from os import PathLike
from pathlib import Path
from urllib.error import URLError

from torch.hub import download_url_to_file

from faststeer.utils.files import cache_folder


@dataclass(frozen=True)
class Pinned:
    """Files under one address, with their SHA-256 in hexadecimal."""

    address: str
    files: Mapping[str, str]


# The questions are Anthropic's model-written evaluations (Perez et al. 2022, arXiv 2212.09251; CC
# BY 4.0), at most a thousand per set, formatted as prompts by van der Weij et al. 2024 (arXiv
# 2403.05767), whose repository this is.
SETS = {
    "behaviours": Pinned(
        "https://raw.githubusercontent.com/TeunvdWeij/extending-activation-addition/"
        "14d177d6ae42a27d25bb3d78897878893d079cdc/data/datasets/",
        {
            "agreeableness.json": (
                "8109ed7eace5e89d4772bf5c9b35ac1eeb171358a8e4d0319204b14fda8644ae"
            ),
            "anti_immigration.json": (
                "c15b474fb520c831be73e28ca4ffa23d38e4378fe32df20807d673514da7f2ca"
            ),
            "myopic.json": ("2555b27c46711c1ea3d9c93fc3ad55351a3a73c4e8fc6ee255ee9f6c50830768"),
            "sycophancy.json": ("3ad8d179ebe2047dfef17cbfb86a0bdf2d7457aa3b6d24572a3d381fa27c2fe3"),
            "wealth_seeking.json": (
                "3f78208424147696ddcc5925fe116391510d5deb6141cd0457a158c58cbd1c99"
            ),
        },
    ),
}


def folder_of(name: str) -> Path:
    """Return the folder of a dataset by default, in FASTSTEER_CACHE or the user's cache folder."""
    return cache_folder() / "data" / name


def fetch(name: str, folder: str | PathLike[str] | None = None) -> list[Path]:
    """Download the files of a dataset; files that are already there and intact are kept.

    Args:
        name: one of `SETS`: "behaviours".
        folder: the target; by default the cache.

    Returns:
        The paths of the files.

    Raises:
        ValueError: an unknown dataset, or content other than what was pinned (it is not kept).
        ConnectionError: the address cannot be reached.
        OSError: the folder cannot be written.
    """
    if name not in SETS:
        raise ValueError(f"data {name!r} is unknown; there are {', '.join(SETS)}")
    target = folder_of(name) if folder is None else Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for file, digest in SETS[name].files.items():
        if not _is_intact(target / file, digest):
            _download(SETS[name].address + file, target / file, digest)
    return [target / file for file in SETS[name].files]


def _is_intact(file: Path, digest: str) -> bool:
    return file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest


def _download(address: str, file: Path, digest: str) -> None:
    """Download a file: it is written beside its place, and renamed if its whole hash is right."""
    if file.is_dir():
        raise IsADirectoryError(f"{file}: is a folder; expected the name of a file")
    try:
        download_url_to_file(address, str(file), hash_prefix=digest, progress=False)
    except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
        raise ConnectionError(
            f"{address} cannot be reached ({error}). Without a network, put the files into "
            f"{file.parent} by hand, or name a folder that has them: --data FOLDER"
        ) from error
    except RuntimeError as error:  # raised for a wrong hash only
        raise ValueError(f"{address} is not what it was: {error}; nothing was kept") from error
