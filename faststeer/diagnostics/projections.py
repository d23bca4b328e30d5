"""The projection of each token of a text on a vector."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from faststeer.extraction.examples import POSITIVE, Example
from faststeer.extraction.reader import ActivationReader
from faststeer.models.vector_origin import warn_of_other_model
from faststeer.vectors.arguments import require_fitting
from faststeer.vectors.steering_vector import SteeringVector


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
    reader = ActivationReader(model, tokenizer, at, vector.site, -1, max_length, add_special_tokens)
    require_fitting(vector, reader.hidden_size, "project_tokens")
    warn_of_other_model(vector, reader.decoder)
    found = []
    with reader.keep_patched():
        for number, text in enumerate(texts):
            unit = reader.encoder.encode(Example(number, (text,), (POSITIVE,)))
            hidden = reader.read_all_tokens(unit.ids)[at][0].float()
            values = torch.mv(hidden, direction.to(hidden.device)).tolist()
            found.append(TokenProjections(unit.ids[0], pieces(tokenizer, unit.ids[0]), values))
    if not found:
        raise ValueError("got no texts; at least one is needed")
    reader.encoder.report()
    return found


_BROKEN = "\ufffd"  # what decoders give for bytes that are no whole character


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; together they are the text.

    A character of several tokens is told by the last of them, and the others add nothing.
    """
    found: list[str] = []
    begin = read = 0
    for end in range(1, len(ids) + 1):
        # With the token before, because decoders drop the space in front of a text's first.
        before = _decoded(tokenizer, ids[begin:read])
        now = _decoded(tokenizer, ids[begin:end])
        if now.endswith(_BROKEN) and end < len(ids):
            found.append("")
            continue
        found.append(now[len(before) :])
        begin, read = read, end
    return found


def token_text(tokenizer: Any, token: int) -> str:
    """One token as it stands after others, with its space; its name where it is no whole text.

    Models have room for more tokens than tokenizers know: such a one is told by its number.
    """
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
    text = pieces(tokenizer, [anchor, token])[1]
    if not text or _BROKEN in text:
        name = tokenizer.convert_ids_to_tokens(token)
        return f"<{token}>" if name is None else str(name)
    return text


def visible(text: str, kept: str = "") -> str:
    """With escapes in place of what is not printed (but `kept`): control and direction marks."""
    return "".join(
        letter if letter.isprintable() or letter in kept else ascii(letter)[1:-1] for letter in text
    )


def spaced(text: str) -> str:
    """A token with its spaces to be seen."""
    return visible(text).replace(" ", "␣")


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
    return text
