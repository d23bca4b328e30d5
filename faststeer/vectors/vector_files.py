"""What `SteeringVector` reads and writes: files, the hub, and other packages' objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from faststeer.utils.files import write_whole
from faststeer.vectors import hub
from faststeer.vectors.formats import detect, other_packages, safetensors_file
from faststeer.vectors.formats.vector_data import VectorData
from faststeer.vectors.other_spelling import refuse_unknown

V = TypeVar("V", bound="VectorFiles")


class VectorFiles(ABC):
    """Base of `SteeringVector`: files, the Hugging Face hub, and other packages' objects."""

    @abstractmethod
    def _data(self) -> VectorData:
        """Return what a file holds."""

    @classmethod
    @abstractmethod
    def _of(cls: type[V], data: VectorData) -> V:
        """Return the vector of a file's content. Raises as its constructor."""

    @abstractmethod
    def select(self: V, layers: int | Iterable[int]) -> V:
        """Return the vector with these layers only."""

    def save(self, path: str | PathLike[str], file_format: str | None = None) -> None:
        """Write a file atomically.

        Args:
            path: by default its suffix determines the format: ``.safetensors``, ``.gguf`` or
                ``.pt``; for an existing folder, one CAA ``.pt`` file per layer is written.
            file_format: "safetensors", "gguf", "caa" or "lm-eval". Only the first keeps everything;
                `faststeer.vectors.formats` documents where the others add their vectors.

        Raises:
            ValueError: an unknown format, or one that cannot hold this vector.
            FileNotFoundError: the folder does not exist.
        """
        target = Path(path)
        try:
            files = detect.encode(self._data(), target, file_format)
        except ValueError as error:
            raise ValueError(f"{target}: {error}") from error
        for file, content in files.items():
            write_whole(file, content)

    @classmethod
    def load(
        cls: type[V],
        path: str | PathLike[str],
        *,
        layer: int | None = None,
        shift: bool = False,
        rows: str | None = None,
        model: str | None = None,
        experiment: str | None = None,
        **unknown: NoReturn,
    ) -> V:
        """Load a vector; the format is detected from the file's content.

        Formats are those that `save` writes, ``.svec`` of IBM's activation-steering, persona
        vectors, and the caps of assistant-axis, as a vector that states mode "cap". A file that
        states a use that faststeer does not have is refused by name.

        Args:
            path: the file, or a folder of CAA's ``vec_layer_{L}_{model}.pt``.
            layer: load only this layer; for a ``.pt`` whose name does not state its layer, the
                layer that it is.
            shift: the file is a GGUF of llama.cpp's cvector-generator, which numbers layers from 1.
            rows: what the rows of a ``.pt`` with one tensor ``[N, H]`` are, where its name does not
                state it: "hidden_states" as transformers returns them (row 0 is the embedding) or
                "layers" (row i is the output of layer i).
            model: load the files of this model, where a folder of CAA's has several models.
            experiment: load the caps of this experiment, where a ``capping_config.pt`` of
                assistant-axis has several.
            unknown: nothing; other keywords are refused.

        Raises:
            OSError: the file cannot be opened; the message names it.
            ValueError: it is damaged or no vector; the message names the file.
        """
        refuse_unknown("load", unknown, "layer")
        file = Path(path)
        try:
            vector = cls._of(detect.decode(file, layer, shift, rows, model, experiment))
            return vector if layer is None else vector.select([layer])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def to_bytes(self) -> bytes:
        """Return the content of the ``.safetensors`` file that `save` writes."""
        return safetensors_file.encode(self._data())

    @classmethod
    def from_bytes(cls: type[V], content: bytes) -> V:
        """Return the vector of a ``.safetensors`` or ``.gguf`` file's content.

        Formats that can hold more than data, such as pickles, are not read.

        Raises:
            ValueError: it is damaged, no vector, or of another format.
            ModuleNotFoundError: it is GGUF, and the package gguf is missing.
        """
        return cls._of(detect.decode_bytes(content))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        license: str | None = None,
        base_model: str | None = None,
        picture: str | PathLike[str] | None = None,
    ) -> Any:
        """Upload the vector to the Hugging Face hub, with a card and a picture, in one commit.

        The card is the repository's README.md, which is replaced: how the vector was made, its dose
        per layer, its effect and damage where metadata state them ("tuned"), and how to use it.
        The vector is ``vector.safetensors``.

        Args:
            repo_id: ``user/vector``; it is created if needed.
            private: whether a new repository is private; None is the account's default.
            token: for the hub; None is that of `hf auth login` or HF_TOKEN, False is none.
            branch: instead of "main"; it is created if needed.
            commit_message: by default it names the vector.
            create_pr: open a pull request instead of a commit.
            license: for the card, as the hub names licences, such as "apache-2.0"; None states
                none.
            base_model: for the card, the model's name on the hub; None is the vector's "model",
                if the hub has it.
            picture: an image for the card; None is one of the norms, if matplotlib is installed.

        Returns:
            huggingface_hub's ``CommitInfo``, the address of the commit as a string; its ``oid`` is
            what `from_pretrained` takes as revision.

        Raises:
            ValueError: a repository that exists and is public, where `private` is True, or a
                picture that is no image.
            PermissionError: the hub refuses access.
            ConnectionError: the hub cannot be reached.
            OSError: the picture cannot be opened, or the hub answers with an error.
        """
        return hub.push(
            self._data(),
            repo_id,
            private=private,
            token=token,
            branch=branch,
            commit_message=commit_message,
            create_pr=create_pr,
            license=license,
            base_model=base_model,
            picture=picture,
        )

    @classmethod
    def from_pretrained(
        cls: type[V],
        repo_id: str | PathLike[str],
        *,
        revision: str | None = None,
        filename: str | None = None,
        sha256: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> V:
        """Load a vector from the Hugging Face hub, or from a folder.

        One safetensors file is downloaded to the hub's cache, and nothing else. Where the hub is
        not reached, the cached copy of that revision is loaded. ``metadata["origin"]`` states the
        repository, the commit, the file and its SHA-256: `from_pretrained(**origin)` loads the same
        again. Metadata of a vector in a folder are those of its file.

        Args:
            repo_id: ``user/vector``, or a folder; a folder that exists goes first.
            revision: a branch, a tag or a commit's whole hash; None is "main".
            filename: which file, where the repository has several.
            sha256: of the file, 64 hexadecimal digits; another file is refused.
            token: as for `push_to_hub`.
            cache_dir: instead of the hub's cache folder.
            local_files_only: load the cached copy without asking the hub.

        Raises:
            FileNotFoundError: no such repository, revision or file; or it is private.
            PermissionError: the hub refuses access.
            ConnectionError: neither the hub nor the cache has it now.
            ValueError: no safetensors file or several, another hash, or no faststeer vector.
        """
        found = hub.find(
            repo_id,
            revision=revision,
            filename=filename,
            sha256=sha256,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        try:
            data = safetensors_file.decode(found.file)
            return cls._of(data._replace(metadata={**data.metadata, **found.metadata}))
        except ValueError as error:
            raise ValueError(f"{found.label}: {error}") from error

    @classmethod
    def from_object(cls: type[V], source: Any, name: str = "vector") -> V:
        """Copy a `SteeringVector` of steering-vectors or a `ControlVector` of repeng.

        Raises:
            TypeError: it is neither.
            ValueError: it is added where there is no residual stream.
        """
        return cls._of(other_packages.from_object(source, name))

    def to_object(self, package: str) -> Any:
        """Return a copy for "steering-vectors" or "repeng", which has to be installed.

        Raises:
            ValueError: another package, or a site that it has no place for.
            ModuleNotFoundError: the package is missing.
        """
        return other_packages.to_object(self._data(), package)
