"""Projections of the residual stream on a vector, at every token of a text."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn

from faststeer.diagnostics.token_text import token_pieces
from faststeer.extraction.examples import POSITIVE, Example
from faststeer.extraction.reader import ActivationReader
from faststeer.models.vector_origin import warn_of_other_model
from faststeer.utils.progress import progress_bar
from faststeer.vectors.arguments import require_fitting
from faststeer.vectors.other_spelling import refuse_unknown
from faststeer.vectors.steering_vector import SteeringVector


@dataclass(frozen=True)
class TokenProjections:
    """The tokens of one text: ids, pieces of text (joined, the whole text), and projections."""

    ids: list[int]
    pieces: list[str]
    values: list[float]


def project_tokens(
    model: nn.Module,
    tokenizer: Any,
    vector: SteeringVector,
    texts: Iterable[str],
    *,
    layer: int | None = None,
    max_length: int | None = None,
    add_special_tokens: bool = True,
    progress: bool = False,
    **unknown: NoReturn,
) -> list[TokenProjections]:
    """Return the projections ``h . v / |v|`` of the residual stream h at every token of each text.

    Raw projections have an offset that all texts share, and a text's first token is often far from
    all others; `as_text` and `as_html` colour deviations from the median.

    Args:
        model: a model that `patch` accepts, patched or not; active steering is included.
        tokenizer: its tokenizer.
        vector: the directions v, and the site at which h is read.
        texts: run one at a time.
        layer: 0-based layer of v and h; needed if the vector has several layers.
        max_length: texts are truncated to this many tokens.
        add_special_tokens: passed to the tokenizer.
        progress: show a progress bar.
        unknown: nothing; other keywords are refused.

    Raises:
        ValueError: no texts, texts that are empty or longer than the model's context, a vector of
            another hidden size, a direction that is zero, or several layers to choose from.
    """
    refuse_unknown("project_tokens", unknown, "layer")
    if layer is None and len(vector.layers) > 1:
        raise ValueError(f"{vector.name!r} has layers {vector.layers}; choose one with layer=")
    chosen = vector.at(vector.layers[0] if layer is None else layer).normalized()
    ((only, direction),) = chosen.directions.items()
    reader = ActivationReader(
        model, tokenizer, only, vector.site, -1, max_length, add_special_tokens
    )
    require_fitting(vector, reader.hidden_size, "project_tokens")
    warn_of_other_model(vector, reader.decoder)
    found = []
    total = len(texts) if isinstance(texts, Sized) else None
    with reader.keep_patched(), progress_bar("projecting", total, progress) as advance:
        for index, text in enumerate(texts):
            [ids] = reader.encoder.encode(Example(index, (text,), (POSITIVE,))).ids
            hidden = reader.read_all_tokens([ids])[only][0].float()
            values = torch.mv(hidden, direction.to(hidden.device)).tolist()
            found.append(TokenProjections(ids, token_pieces(tokenizer, ids), values))
            advance(1)
    if not found:
        raise ValueError("got no texts; at least one is needed")
    reader.report()
    return found
