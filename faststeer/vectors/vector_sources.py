"""What `SteeringVector` is made from besides texts: attention heads, features of autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from torch import Tensor

from faststeer.vectors.formats import sae
from faststeer.vectors.formats.vector_data import VectorData
from faststeer.vectors.head_images import head_writers, images
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.vector_files import VectorFiles

V = TypeVar("V", bound="VectorSources")


class VectorSources(VectorFiles):
    """Base of `SteeringVector`: vectors of what others found inside a model."""

    @classmethod
    def from_heads(
        cls: type[V],
        model: Any,
        directions: Mapping[tuple[int, int], Tensor],
        *,
        name: str = "heads",
        **unknown: NoReturn,
    ) -> V:
        """Make the vector that does what adding directions to attention heads' outputs does.

        Inference-time intervention (Li et al. 2023, arXiv 2306.03341) adds to the output z ``[d]``
        of chosen heads, before the output projection W_o. That is exactly the addition of
        ``W_o[:, head] direction`` at `resid_mid`, summed over the layer's heads, so the vector is
        an ordinary one: fused, for each row, saved and served. `faststeer.probe_heads` chooses the
        heads and their directions as the paper does.

        Args:
            model: a model of a family that is fused; its ``o_proj`` weights are read, not changed.
            directions: (layer, head), both 0-based, -> direction ``[d]``.
            name: the vector's name.
            unknown: nothing; other keywords are refused.

        Raises:
            TypeError: not a module, or keys or directions of other types.
            ValueError: no heads, a layer or a head out of range, a direction of another size; a
                model whose attention passes a norm before it is added (Gemma 2 and 3), one of no
                known family, or one whose ``o_proj`` is not a plain Linear.
        """
        refuse_unknown("from_heads", unknown, "layer")
        writers = head_writers(model)
        by_layer, heads = images(writers, directions)
        metadata = {**writers.origin(), "method": "heads", "heads": heads}
        return cls._of(VectorData(name, by_layer, "resid_mid", metadata))

    @classmethod
    def from_sae(
        cls: type[V],
        path: str | PathLike[str],
        feature: int,
        *,
        part: str = "decoder",
        layer: int | None = None,
        site: str | None = None,
        **unknown: NoReturn,
    ) -> V:
        """Load one feature of a sparse autoencoder: a folder of SAELens, or Gemma Scope's ``.npz``.

        The decoder's row ``[H]`` is what a unit of the feature's activation adds to the residual
        stream, so a coefficient is in units of activation. Layer and site are those that the
        configuration states. Nothing goes through pickle.

        ``metadata["sae"]`` has the feature, the norm of its row and, for a JumpReLU, the
        ``threshold``: the smallest activation that the autoencoder itself produces.

        Args:
            path: a folder with ``cfg.json`` and ``sae_weights.safetensors``; or ``params.npz``, or
                its folder.
            feature: its number, from 0.
            part: "decoder", or "encoder" for the direction that the feature reads. The encoder's
                metadata state where the feature is active: above a ``projection`` x · w of the
                stream x, or above a ``cosine``; `faststeer.when_active` makes a condition of it.
            layer: for an ``.npz`` that is in no folder ``layer_N``.
            site: for an ``.npz`` that is in no folder ``gemma-scope-...-res``.
            unknown: nothing; other keywords are refused.

        Raises:
            TypeError: a feature that is not a number.
            OSError: a file cannot be opened.
            ValueError: a feature out of range, an autoencoder of something other than the residual
                stream, missing keys, shapes that do not fit, a damaged file; for the encoder, an
                autoencoder whose features have no threshold of their own.
        """
        refuse_unknown("from_sae", unknown, "layer")
        try:
            return cls._of(sae.decode(Path(path), feature, part, layer, site))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
