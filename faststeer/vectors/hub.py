"""Vectors on the Hugging Face hub: a repository holds one vector, its card and a picture.

The vector's file is `VECTOR_FILE`, in the native format. Only safetensors files are downloaded:
nothing from the hub is read through pickle.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from faststeer.utils.text_files import open_file
from faststeer.utils.version import VERSION
from faststeer.vectors.card import card_text
from faststeer.vectors.card_picture import card_picture
from faststeer.vectors.formats import safetensors_file
from faststeer.vectors.formats.vector_data import VectorData
from faststeer.vectors.hub_errors import in_words, upload_in_words

VECTOR_FILE = "vector.safetensors"
_SUFFIX = ".safetensors"
_PICKLED = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_MAX_BYTES = 1 << 27  # a hundred layers of 16,384 numbers are a twentieth of it


class Found(NamedTuple):
    """A vector's file: its name for messages, its path, and from where it was downloaded."""

    label: str
    file: Path
    metadata: Mapping[str, Any]


def push(
    vector: VectorData,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    branch: str | None,
    commit_message: str | None,
    create_pr: bool,
    license: str | None,
    base_model: str | None,
    picture: str | PathLike[str] | None,
) -> Any:
    """Upload a vector, its card and a picture in one commit; see `SteeringVector.push_to_hub`."""
    content = safetensors_file.encode(vector)
    image = card_picture(vector, picture)
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name="faststeer", library_version=VERSION)
    with in_words(repo_id):
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        public = private is True and not api.repo_info(repo).private
    if public:
        raise ValueError(f"{repo}: exists and is public; make it private on the hub first")
    stated = vector.metadata.get("model")
    with in_words(repo):
        if base_model is None and _may_be_on_hub(stated) and api.repo_exists(stated):
            base_model = stated
        if branch is not None and not create_pr:
            api.create_branch(repo, branch=branch, exist_ok=True)
    text = card_text(
        vector,
        repo,
        sha256=hashlib.sha256(content).hexdigest(),
        picture=None if image is None else image.name,
        license=license,
        base_model=base_model,
    )
    files = {"README.md": text.encode(), VECTOR_FILE: content}
    if image is not None:
        files[image.name] = image.content
    with in_words(repo), upload_in_words(repo):
        return api.create_commit(
            repo,
            [CommitOperationAdd(name, data) for name, data in files.items()],
            commit_message=commit_message or f"Upload steering vector {vector.name}",
            revision=branch,
            create_pr=create_pr,
        )


def find(
    repo_id: str | PathLike[str],
    *,
    revision: str | None,
    filename: str | None,
    sha256: str | None,
    token: str | bool | None,
    cache_dir: str | PathLike[str] | None,
    local_files_only: bool,
) -> Found:
    """Return the vector's file of a folder or a repository, after a comparison of its SHA-256.

    See `SteeringVector.from_pretrained`.
    """
    if sha256 is not None and _SHA256.fullmatch(sha256) is None:
        raise ValueError(f"sha256 is {sha256!r}; expected 64 hexadecimal digits")
    if filename is not None and not filename.endswith(_SUFFIX):
        raise ValueError(f"filename is {filename!r}; expected a {_SUFFIX} file")
    folder = Path(repo_id)
    if folder.is_file():
        raise ValueError(f"{folder}: is a file; SteeringVector.load reads it")
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{folder}: is a folder, which has no revision {revision!r}")
        file = folder / (filename or _only_vector(_sizes(folder), str(folder)))
        _digest(file, str(file), sha256)
        return Found(str(file), file, {})
    name = str(repo_id)
    file, filename = _download(name, revision, filename, token, cache_dir, local_files_only)
    commit = file.parts[-1 - len(PurePosixPath(filename).parts)]
    origin = {"repo_id": name, "revision": commit, "filename": filename}
    label = f"{name} at {commit}: {filename}"
    return Found(label, file, {"origin": {**origin, "sha256": _digest(file, label, sha256)}})


def _download(
    repo_id: str,
    revision: str | None,
    filename: str | None,
    token: str | bool | None,
    cache_dir: str | PathLike[str] | None,
    local_files_only: bool,
) -> tuple[Path, str]:
    """Return the path of a file in the hub's cache, and its name in the repository."""
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="faststeer", library_version=VERSION)
    if filename is None:
        sizes = None
        if not local_files_only:
            sizes = _sizes_on_hub(api, repo_id, revision)
        if sizes is None:
            with in_words(repo_id):
                folder = api.snapshot_download(
                    repo_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    local_files_only=True,
                    allow_patterns=f"*{_SUFFIX}",
                )
            sizes = _sizes(Path(folder))
        filename = _only_vector(sizes, repo_id)
    with in_words(repo_id):
        file = api.hf_hub_download(
            repo_id,
            filename,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
    return Path(file), filename


def _sizes_on_hub(api: Any, repo_id: str, revision: str | None) -> dict[str, int] | None:
    """Return the files of a repository and their sizes; None where the hub is not reached."""
    try:
        with in_words(repo_id):
            info = api.repo_info(repo_id, revision=revision, files_metadata=True)
    except ConnectionError:
        return None
    return {file.rfilename: file.size or 0 for file in info.siblings}


def _sizes(folder: Path) -> dict[str, int]:
    """Return the files in a folder and below it, and their sizes."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def _only_vector(sizes: Mapping[str, int], label: str) -> str:
    """Return the one file that may hold a vector.

    Raises:
        ValueError: none, several, or one that is too large.
    """
    found = sorted(name for name in sizes if name.endswith(_SUFFIX))
    if not found:
        pickled = ", ".join(sorted(name for name in sizes if name.endswith(_PICKLED)))
        why = f"; {pickled} would be read through pickle, which is not done" if pickled else ""
        raise ValueError(f"{label}: holds no faststeer vector: no {_SUFFIX} file{why}")
    if len(found) > 1:
        raise ValueError(f"{label}: has {', '.join(found)}; choose one with filename=")
    [name] = found
    if sizes[name] > _MAX_BYTES:
        raise ValueError(
            f"{label}: {name} has {sizes[name]:,} bytes, more than a vector has ({_MAX_BYTES:,} at "
            "most); is it a model?"
        )
    return name


def _digest(file: Path, label: str, expected: str | None) -> str:
    """Return a file's SHA-256. Raises ValueError where another is expected."""
    with open_file(file, "a vector's file") as opened:
        digest = hashlib.sha256(opened.read()).hexdigest()
    if expected is not None and digest != expected.lower():
        raise ValueError(
            f"{label}: its SHA-256 is {digest}, expected {expected}; nothing is loaded"
        )
    return digest


def _may_be_on_hub(model: Any) -> bool:
    """Return whether a model's name has the form of one on the hub, and is no local folder."""
    named = isinstance(model, str) and _HUB_NAME.fullmatch(model) is not None
    return named and not Path(model).exists()
