"""The projection of each token of a text on a vector."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from faststeer.diagnostics.tokens import pieces
from faststeer.fitting import require_fitting, warn_of_other_model
from faststeer.reading import Reader
from faststeer.texts import POSITIVE, Unit
from faststeer.vectors import SteeringVector


@dataclass(frozen=True)
class TokenProjections:
    """Of one text: token ids, the text of each (together they are the whole), and projections."""

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
) -> list[TokenProjections]:
    """``h . v / |v|`` at every token of each text: how far the residual goes the vector's way.

    Raw projections have an offset that all texts share, and a text's first token is often far from
    all others; `as_text` and `as_html` colour what differs from the median.

    Args:
        model: a model that `patch` accepts; it is read as it stands.
        tokenizer: its tokenizer.
        vector: has the direction v, and the site.
        texts: run one at a time.
        layer: whose direction, read there; may be left out where the vector has one layer.
        max_length: texts are cut after so many tokens.
        add_special_tokens: passed to the tokenizer.

    Raises:
        ValueError: no texts, texts that are empty or longer than the model's context, a vector of
            another hidden size, a direction that is zero, or a layer that is left out, not clear.
    """
    if layer is None and len(vector.layers) > 1:
        raise ValueError(f"{vector.name!r} has layers {vector.layers}; say which with layer=")
    chosen = vector.at(vector.layers[0] if layer is None else layer).normalized()
    ((at, direction),) = chosen.directions.items()
    reader = Reader(model, tokenizer, at, vector.site, -1, max_length, add_special_tokens)
    require_fitting(vector, reader.hidden_size, "project_tokens")
    warn_of_other_model(vector, reader.decoder)
    found = []
    with reader.opened():
        for number, text in enumerate(texts):
            unit = reader.encoder.encoded(Unit(number, (text,), (POSITIVE,)))
            hidden = reader.every_token(unit.ids)[at][0].float()
            values = torch.mv(hidden, direction.to(hidden.device)).tolist()
            found.append(TokenProjections(unit.ids[0], pieces(tokenizer, unit.ids[0]), values))
    if not found:
        raise ValueError("got no texts; at least one is needed")
    reader.encoder.warn()
    return found
