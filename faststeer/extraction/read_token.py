"""The read token: which token of each text is read, or which tokens are averaged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from faststeer.data.batches import Batch
from faststeer.data.chat import ChatFormat
from faststeer.data.post_instruction import post_instruction_ids
from faststeer.extraction.examples import Example, TextRow
from faststeer.steering.positions import Positions, scope_of
from faststeer.steering.scopes import Scope
from faststeer.steering.token_positions import PromptLayout, TokenPositions
from faststeer.steering.written import after
from faststeer.vectors.position_range import POST_INSTRUCTION
from faststeer.vectors.stated_use import warn_of_other_reading
from faststeer.vectors.steering_vector import SteeringVector

# Computing a shared prefix once costs a second forward pass and a copy of its cache: measured on
# two cores, it is faster wherever it saves a fifth of the tokens.
_MAX_SHARE_OF_TOKENS = 0.8


@dataclass(frozen=True)
class _Occurrence(Scope):
    """The tokens of the last occurrence of ids in a text; none where they do not occur."""

    ids: tuple[int, ...]

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool."""
        assert tokens.prompts.ids is not None  # texts are encoded
        behind = after(self.ids).columns_behind(tokens.prompts.ids)[:, None]
        return (tokens.columns >= behind - len(self.ids)) & (tokens.columns < behind)


class ReadToken:
    """A single token, counted from each text's end (`index`), or several whose mean is read."""

    def __init__(self, value: int | Positions, chat: ChatFormat | None = None) -> None:
        """Interpret `value` as the argument `read_token` of `faststeer.extract`.

        `chat` is the format of the texts, which "post_instruction" needs.

        Raises:
            TypeError, ValueError: a value without meaning.
        """
        if isinstance(value, int) and value >= 0:
            raise ValueError(
                f"read_token is {value}; it counts from the end of each text: -1 for the last"
            )
        self.value = value
        self.index = value if isinstance(value, int) else None
        self.answer = isinstance(value, str) and value == "answer"
        self.scope: Scope | None = None
        if isinstance(value, str) and value == POST_INSTRUCTION:
            if chat is None:
                raise ValueError(f"read_token {value!r} needs a tokenizer with a chat template")
            self.scope = _Occurrence(tuple(post_instruction_ids(chat)))
        elif not isinstance(value, int) and not self.answer:
            self.scope = scope_of(value)

    @property
    def min_tokens(self) -> int:
        """The number of tokens that a text needs."""
        return 1 if self.index is None else -self.index

    def chosen(self, padded: Batch, rows: list[TextRow]) -> Tensor:
        """Return which tokens are read, ``[B, T]`` bool.

        Raises:
            ValueError: a text without a chosen token.
        """
        if self.index is not None:
            columns = torch.arange(padded.ids.shape[1], device=padded.ids.device)
            return columns == self.columns(padded)[:, None]
        chosen = padded.real
        if self.answer:
            begin = torch.tensor([[row.shared] for row in rows])
            chosen = chosen & (padded.positions >= begin.to(chosen.device))
        elif self.scope is not None:
            prompts = PromptLayout.masked(padded.mask, padded.ids)
            columns = torch.arange(padded.ids.shape[1], device=padded.ids.device)
            lengths = prompts.lengths[:, None]
            tokens = TokenPositions(prompts.at(columns), lengths, columns, prompts, padded.ids)
            chosen = chosen & self.scope.mask(tokens)
        for row, any_chosen in zip(rows, chosen.any(1).tolist(), strict=True):
            if not any_chosen:
                why = ""
                if isinstance(self.scope, _Occurrence):
                    why = f": it does not hold the chat template's ids {list(self.scope.ids)}"
                raise ValueError(f"{row.name} has no token at read_token={self.value!r}{why}")
        return chosen

    def facts(self, padded: Batch, rows: list[TextRow]) -> Any:
        """Return as JSON values which tokens are read. Raises as `chosen`."""
        if self.scope is None:
            return self.value
        return self.chosen(padded, rows).int().tolist()

    def columns(self, padded: Batch) -> Tensor:
        """Return the column ``[B]`` of each text's single token, for padding on either side."""
        assert self.index is not None
        columns = torch.arange(padded.mask.shape[1], device=padded.mask.device)
        return torch.where(padded.real, columns, -1).amax(1) + 1 + self.index

    def prefix_lengths(self, batch: list[Example], window: int | None) -> list[int] | None:
        """Return how many tokens of each pair to compute once for both texts; None for none.

        All tokens that are read lie behind the prefix. `window` is the size of sliding-window
        attention, which would count the padding between prefix and continuation as distance.
        """
        single_texts = any(len(example.ids) != 2 for example in batch)
        if single_texts or (self.index is None and not self.answer):
            return None
        lengths = [min(one.shared, min(map(len, one.ids)) - self.min_tokens) for one in batch]
        if self.answer and lengths != [example.shared for example in batch]:
            return None  # one text is a prefix of the other, so it has no answer
        longest = max(len(ids) for example in batch for ids in example.ids)
        continuation = max(
            len(ids) - length
            for example, length in zip(batch, lengths, strict=True)
            for ids in example.ids
        )
        if window is not None and longest >= window:
            return None
        tokens, whole = max(lengths) + 2 * continuation, 2 * longest
        if min(lengths) < 1 or tokens > _MAX_SHARE_OF_TOKENS * whole:
            return None
        return lengths


def parse_read_token(text: str) -> int | Positions:
    """Parse a read token such as "-2", "last", "all", "answer", or the range "-4:".

    Raises:
        ValueError: any other text.
    """
    if text in ("all", "answer", POST_INSTRUCTION):
        return text
    if text == "last":
        return -1
    if re.fullmatch(r"-?[0-9]{1,9}", text):
        return int(text)
    if ends := re.fullmatch(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?", text):
        return slice(*(None if end is None else int(end) for end in ends.groups()))
    raise ValueError(
        f"read token {text!r} is unknown; expected -1 or 'last', -2, ..., 'all', 'answer' (what "
        "follows a pair's common beginning), 'post_instruction' (the chat template's tokens after "
        "the last instruction) or a range such as -4: or -3:-1"
    )


def as_metadata(read_token: int | Positions) -> int | str:
    """Serialise a read token for metadata; the inverse of `parse_read_token` where possible."""
    if isinstance(read_token, (int, str)):
        return read_token
    if isinstance(read_token, (range, slice)):
        start, stop = read_token.start, read_token.stop
        if isinstance(read_token, range) and start < 0 and stop == 0:
            stop = None  # range(-4, 0) extends to the end
        return ":".join("" if end is None else str(end) for end in (start, stop))
    return repr(read_token)


def stated_read_token(vector: SteeringVector) -> int | Positions:
    """Return the read token that a vector's metadata state, or -1, the last token.

    Raises:
        ValueError: a read token that cannot be restored from metadata, such as a function.
    """
    stated = vector.metadata.get("read_token", -1)
    if isinstance(stated, int):
        return stated
    try:
        return parse_read_token(str(stated))
    except ValueError:
        raise ValueError(
            f"{vector.name!r} was read at {stated}, which cannot be restored from its metadata; "
            "give read_token"
        ) from None


def resolve_read_token(
    vectors: Sequence[SteeringVector],
    read_token: int | Positions | None,
    chat: ChatFormat | None,
) -> int | Positions:
    """Return `read_token`, or where it is None the one that the vectors state, or -1.

    A `FaststeerWarning` names a vector that states another read token, or another chat template
    than `chat`, the format of the texts that are read.

    Raises:
        ValueError: no read token is given, and the vectors state several, or one that cannot be
            restored from metadata.
    """
    if read_token is None:
        stated = {as_metadata(stated_read_token(vector)) for vector in vectors}
        if len(stated) > 1:
            raise ValueError(f"the vectors were read at tokens {stated}; give read_token")
        read_token = stated_read_token(vectors[0]) if vectors else -1
    for vector in vectors:
        template = None if chat is None else chat.digest
        warn_of_other_reading(vector, as_metadata(read_token), template, 5)
    return read_token


def reject_answer(read_token: int | Positions) -> None:
    """Raise ValueError for the read token "answer", which is defined for pairs only."""
    if isinstance(read_token, str) and read_token == "answer":
        raise ValueError("read_token 'answer' is where the two texts of a pair differ; give pairs")
