"""The layout of hidden states: where a decoder's layers keep sequences and tokens of a batch.

Nearly all return ``[B, T, H]``. XLNet's are ``[T, B, H]``; Gemma 3n keeps several streams per
token, ``[S, B, T, H]``, DeepSeek-V4 too, ``[B, T, S, H]``; CPM-Ant puts tokens of its own in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from faststeer import ops
from faststeer.steering.device_tables import Entries

# Where the lengths of a batch would fit two layouts, the decoder's name decides.
_TIME_FIRST = ("XLNetModel",)
_STREAMS_FIRST = ("Gemma3nTextModel",)


@dataclass(frozen=True)
class StreamLayout:
    """How to find each sequence's tokens.

    `time_first`: ``[T, B, H]``. `streams_first`: ``[S, B, T, H]`` with S of that number, else 0.
    `streams`: several vectors per token, in either order. `own_tokens`: the second dimension is not
    the input's tokens.
    """

    time_first: bool = False
    streams_first: int = 0
    streams: bool = False
    own_tokens: bool = False

    @classmethod
    def find(cls, shape: Sequence[int], batch: int, tokens: int, decoder: str) -> StreamLayout:
        """Return the layout of a tensor ``[..., H]`` in a forward over ids ``[B, T]``.

        Raises:
            ValueError: the batch's sequences are nowhere in it.
        """
        *leading, _ = shape
        if decoder in _TIME_FIRST and leading == [tokens, batch]:
            return cls(time_first=True)
        streams_first = len(leading) == 3 and leading[1:] == [batch, tokens]
        if streams_first and (decoder in _STREAMS_FIRST or leading[:2] != [batch, tokens]):
            return cls(streams_first=leading[0], streams=True)
        if leading[:2] == [batch, tokens]:
            return cls(streams=len(leading) > 2)
        if len(leading) == 2 and leading[0] == batch:
            return cls(own_tokens=True)
        raise ValueError(
            f"a {decoder} was given {batch} sequences of {tokens} tokens, and its layers hand on "
            f"{list(shape)}: which part belongs to which sequence is not known; steer all "
            "positions of all sequences alike"
        )

    def require_tokens(self, shape: Sequence[int], decoder: str) -> None:
        """Raise ValueError where tokens of the layers are not those of the input."""
        if self.own_tokens:
            raise ValueError(
                f"the layers of a {decoder} hand on {list(shape)}, with other tokens than its "
                "input: positions= and when= cannot choose among them; steer all positions"
            )

    def require_readable(self, shape: Sequence[int], decoder: str) -> None:
        """Raise ValueError where there is not one vector per token of the input."""
        if self.own_tokens:
            raise ValueError(
                f"the layers of a {decoder} hand on {list(shape)}, with other tokens than its "
                "input: which of them belong to a text is not known, so they cannot be read"
            )
        if self.streams:
            raise ValueError(
                f"the layers of a {decoder} hand on {list(shape)}, several streams per token: "
                "there is no single residual stream to read (it can be steered, all streams alike)"
            )

    def steered(self, hidden: Tensor, entries: Entries) -> Tensor:
        """Return `hidden` with what `entries`, made for ``[B, T, H]``, do to it."""
        if self.time_first:
            return ops.steer_add(None, hidden.transpose(0, 1), *entries).transpose(0, 1)
        if self.streams_first:
            vectors, index, coefficient, modes = entries
            assert index is not None
            assert coefficient is not None
            index = index.repeat(self.streams_first, 1)
            coefficient = coefficient.repeat(self.streams_first, 1)
            entries = vectors, index, coefficient, modes
        return ops.steer_add(None, hidden, *entries)

    def read(self, hidden: Tensor) -> Tensor:
        """Return ``[B, T, H]`` of a tensor that `require_readable` lets through."""
        return hidden.transpose(0, 1) if self.time_first else hidden


PLAIN = StreamLayout()
