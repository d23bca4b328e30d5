"""Which token of each text is read, or which are averaged: `read_token`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from faststeer.data.batches import Batch
from faststeer.extraction.examples import Example, TextRow
from faststeer.steering.positions import Positions, scope_of
from faststeer.steering.token_positions import PromptLayout, TokenPositions
from faststeer.vectors.stated_use import warn_of_other_reading
from faststeer.vectors.steering_vector import SteeringVector

# A second forward and the copy of a cache cost something: measured on two cores, sharing wins
# wherever it saves a fifth of the tokens.
_WORTH_SHARING = 0.8


class ReadToken:
    """One token, counted from each text's end (`index`), or several of which the mean is read."""

    def __init__(self, given: int | Positions) -> None:
        """`given`: as for `faststeer.extract`. Raises ValueError, TypeError for anything else."""
        if isinstance(given, int) and given >= 0:
            raise ValueError(
                f"read_token is {given}; it counts from the end of each text: -1 for the last"
            )
        self.given = given
        self.index = given if isinstance(given, int) else None
        self.answer = isinstance(given, str) and given == "answer"
        self.scope = None
        if not isinstance(given, int) and not self.answer:
            self.scope = scope_of(given)

    @property
    def fewest(self) -> int:
        """How many tokens a text has to have."""
        return 1 if self.index is None else -self.index

    def weights(self, padded: Batch, rows: list[TextRow]) -> Tensor | None:
        """What each token counts ``[B, T]`` float32; None where a single one is read.

        Raises:
            ValueError: a text of which no token is chosen.
        """
        if self.index is not None:
            return None
        chosen = padded.real
        if self.answer:
            begin = torch.tensor([[row.shared] for row in rows])
            chosen = chosen & (padded.positions >= begin.to(chosen.device))
        elif self.scope is not None:
            prompts = PromptLayout.masked(padded.mask, padded.ids)
            columns = torch.arange(padded.ids.shape[1], device=padded.ids.device)
            tokens = TokenPositions(prompts.at(columns), prompts.lengths[:, None], columns, prompts)
            chosen = chosen & self.scope.mask(tokens)
        for row, some in zip(rows, chosen.any(1).tolist(), strict=True):
            if not some:
                raise ValueError(f"{row.name} has no token at read_token={self.given!r}")
        return evenly(chosen)

    def columns(self, padded: Batch) -> Tensor:
        """The column ``[B]`` of the single token that is read in each text, padded on any side."""
        assert self.index is not None
        places = torch.arange(padded.mask.shape[1], device=padded.mask.device)
        return torch.where(padded.real, places, -1).amax(1) + 1 + self.index

    def cuts(self, batch: list[Example], window: int | None) -> list[int] | None:
        """How many tokens of each pair to compute once for both texts; None for whole texts.

        Tokens that are read lie behind the cut. `window`: of attention that slides, which would
        count the padding between beginning and rest as distance.
        """
        if any(len(unit.ids) != 2 for unit in batch) or (self.index is None and not self.answer):
            return None
        cuts = [min(unit.shared, min(map(len, unit.ids)) - self.fewest) for unit in batch]
        if self.answer and cuts != [unit.shared for unit in batch]:
            return None  # one text is the other's beginning, and has no answer
        longest = max(len(ids) for unit in batch for ids in unit.ids)
        rest = max(
            len(ids) - cut for unit, cut in zip(batch, cuts, strict=True) for ids in unit.ids
        )
        if window is not None and longest >= window:
            return None
        if min(cuts) < 1 or max(cuts) + 2 * rest > _WORTH_SHARING * 2 * longest:
            return None
        return cuts


def read_token_of(text: str) -> int | Positions:
    """What a text such as "-2", "last", "all", "answer" or the range "-4:" means.

    Raises:
        ValueError: anything else.
    """
    if text in ("all", "answer"):
        return text
    if text == "last":
        return -1
    if re.fullmatch(r"-?[0-9]{1,9}", text):
        return int(text)
    if ends := re.fullmatch(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?", text):
        return slice(*(None if end is None else int(end) for end in ends.groups()))
    raise ValueError(
        f"read token {text!r} is unknown; expected -1 or 'last', -2, ..., 'all', 'answer' (what "
        "follows a pair's common beginning) or a range such as -4: or -3:-1"
    )


def read_token_of_vector(vector: SteeringVector) -> int | Positions:
    """As the metadata say; the last token where they say nothing. Raises ValueError as told."""
    said = vector.metadata.get("read_token", -1)
    if isinstance(said, int):
        return said
    try:
        return read_token_of(str(said))
    except ValueError:
        raise ValueError(
            f"{vector.name!r} was read at {said}, which its file cannot tell; give read_token"
        ) from None


def read_token_for(
    vectors: Sequence[SteeringVector], read_token: int | Positions | None, texts: Any
) -> int | Positions:
    """Return `read_token`, or where it is None the one that the vectors state, or -1.

    A `FaststeerWarning` names a vector that states another token, or another chat template than
    `texts` (`faststeer.data.InChat`) come from.

    Raises:
        ValueError: no read token is given, and vectors state several, or one that is no text.
    """
    if read_token is None:
        stated = {as_metadata(read_token_of_vector(vector)) for vector in vectors}
        if len(stated) > 1:
            raise ValueError(f"the vectors were read at tokens {stated}; give read_token")
        read_token = read_token_of_vector(vectors[0]) if vectors else -1
    for vector in vectors:
        template = getattr(texts, "template", None)
        warn_of_other_reading(vector, as_metadata(read_token), template, 5)
    return read_token


def as_metadata(read_token: int | Positions) -> int | str:
    """For metadata: as `read_token_of` understands it, where there is such a text."""
    if isinstance(read_token, (int, str)):
        return read_token
    if isinstance(read_token, (range, slice)):
        start, stop = read_token.start, read_token.stop
        if isinstance(read_token, range) and start < 0 and stop == 0:
            stop = None  # range(-4, 0) is up to the end
        return ":".join("" if end is None else str(end) for end in (start, stop))
    return repr(read_token)


def evenly(chosen: Tensor) -> Tensor:
    """Weights ``[B, T]`` float32 that add up to 1 over the tokens chosen in each text."""
    return chosen / chosen.sum(1, keepdim=True)
