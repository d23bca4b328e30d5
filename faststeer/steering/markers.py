"""Markers, `positions=faststeer.after(...)`: steer the tokens behind a text in the prompt.

A marker's own tokenisation is not how a prompt holds it: byte-level BPE merges its last character
with what follows ("</think>" before a blank line ends in another token), and sentencepiece writes
another first token at the start of a text. A marker given as text is therefore looked for in the
prompt's decoded text, on the host, once per prompt; what remains for each step is one column per
prompt, on the device.
"""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from faststeer.steering.positions import Scope
from faststeer.steering.token_positions import TokenPositions
from faststeer.utils.warnings import FaststeerWarning

if TYPE_CHECKING:
    from faststeer.steering.token_positions import PromptLayout

_NOWHERE = torch.iinfo(torch.int64).max  # a column that no token reaches
_LISTED = 10  # rows that a warning names one by one


class After(Scope):
    """What follows a marker's last occurrence in the prompt; nothing where it does not occur."""

    key: str  # by which prompts keep their columns; graphs read it, so no object's identity

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return the tokens from the marker's end on, ``[B, T]`` bool."""
        begins = tokens.prompts.begins.get(self.key)
        if begins is None:
            begins = self.look_up(tokens.prompts)
        each = len(tokens.positions) // len(begins)  # sequences per prompt
        if each > 1:
            begins = begins.repeat_interleave(each)
        return (tokens.columns >= begins[:, None]) & (tokens.positions >= 0)

    def look_up(self, prompts: PromptLayout) -> Tensor:
        """Return the first column ``[B]`` int64 behind the marker, and keep it with `prompts`.

        Warns of prompts without the marker. Inside a graph nothing is kept, and no warning is
        given.

        Raises:
            ValueError: the prompts' ids are not known, or are being traced and have no text.
        """
        if prompts.ids is None:
            raise ValueError(
                "positions=after(...) has to see the prompt's ids, and this forward has embeddings "
                "or a part of the prompt: call generate with input_ids, or a text model with the "
                "ids of the whole prompt"
            )
        if _in_graph(prompts.ids):
            return self._traced(prompts.ids)
        begins = self._begins(prompts.ids)
        _warn_of_prompts_without(self, begins)
        prompts.begins[self.key] = begins
        return begins

    @abstractmethod
    def _begins(self, ids: Tensor) -> Tensor:
        """Return the columns ``[B]`` for ids ``[B, P]``, -1 for padding; may use the host."""

    @abstractmethod
    def _traced(self, ids: Tensor) -> Tensor:
        """Return the same on the device alone. Raises ValueError where that is impossible."""


@dataclass(frozen=True)
class AfterIds(After):
    """After the last occurrence of these token ids, one directly behind the other."""

    ids: tuple[int, ...]
    key: str = field(init=False, compare=False, default="")

    def __post_init__(self) -> None:
        """Derive the key."""
        object.__setattr__(self, "key", f"ids {self.ids}")

    def __str__(self) -> str:
        """Return the marker as messages name it."""
        return f"the ids {list(self.ids)}"

    def _begins(self, ids: Tensor) -> Tensor:
        return self._traced(ids)

    def _traced(self, ids: Tensor) -> Tensor:
        count = ids.shape[1] - len(self.ids) + 1
        if count < 1:
            return torch.full_like(ids[:, 0], _NOWHERE)
        here = ids[:, :count] == self.ids[0]
        for i, token in enumerate(self.ids[1:], 1):  # a tensor of them would be copied
            here = here & (ids[:, i : i + count] == token)
        columns = torch.arange(count, device=ids.device) + len(self.ids)
        begins = torch.where(here, columns, -1).amax(1)
        return torch.where(begins < 0, _NOWHERE, begins)


@dataclass(frozen=True)
class AfterText(After):
    """After the last occurrence of a text in the prompt as its tokenizer decodes it."""

    text: str
    tokenizer: Any = field(compare=False)
    key: str = field(init=False, default="")

    def __post_init__(self) -> None:
        """Derive the key: the same text under another tokenizer is another marker."""
        object.__setattr__(self, "key", f"text {self.text!r} of tokenizer {id(self.tokenizer)}")

    def __str__(self) -> str:
        """Return the marker as messages name it."""
        return f"the text {self.text!r}"

    def _begins(self, ids: Tensor) -> Tensor:
        begins = [self._begin(row) for row in ids.tolist()]
        return torch.tensor(begins, dtype=torch.int64, device=ids.device)

    def _traced(self, ids: Tensor) -> Tensor:
        raise ValueError(
            f"positions=after({self.text!r}, tokenizer) reads the prompt's text, which a compiled "
            "or captured forward does not have: call generate, which reads it before its first "
            "forward, or give the marker's ids as the prompt holds them, after([...])"
        )

    def _begin(self, row: Sequence[int]) -> int:
        """Return the column of the first token whose text lies wholly behind the marker."""
        columns = [column for column, token in enumerate(row) if token >= 0]
        tokens = [row[column] for column in columns]
        text = decoded(self.tokenizer, tokens)
        start = text.rfind(self.text)
        if start < 0:
            return _NOWHERE
        head = text[: start + len(self.text)]
        # Tokens up to the one that completes the marker; a prefix that ends within a character
        # decodes to a replacement character there, and so is not yet enough.
        needed = bisect_left(
            range(len(tokens)),
            True,
            key=lambda n: decoded(self.tokenizer, tokens[:n])[: len(head)] == head,
        )
        return columns[needed] if needed < len(columns) else len(row)


def after(marker: str | Sequence[int], tokenizer: Any = None) -> After:
    """Return the scope of the tokens after a marker's last occurrence in the prompt.

    All generated tokens are in it too, as in CAA with "[/INST]" (Rimsky et al. 2024, section 3).
    In a prompt without the marker nothing is steered; a `FaststeerWarning` names such prompts.

    Args:
        marker: text, found in the prompt as the tokenizer decodes it, special tokens included.
            A token that holds the marker's end and more ("</think>" with a line break, or a
            space at the marker's end with the next word) counts as marker: steering begins with
            the token behind it. Or token ids, exactly as the prompt holds them.
        tokenizer: the one that made the prompts; needed for text.

    Raises:
        TypeError: a tokenizer that cannot decode.
        ValueError: text without a tokenizer, or an empty marker.
    """
    if not isinstance(marker, str):
        ids = tuple(int(token) for token in marker)
        if not ids:
            raise ValueError("after() got a marker without tokens")
        return AfterIds(ids)
    if tokenizer is None:
        raise ValueError(f"after({marker!r}) needs the tokenizer: after({marker!r}, tokenizer)")
    if not callable(getattr(tokenizer, "decode", None)):
        raise TypeError(
            f"after({marker!r}, ...) got a {type(tokenizer).__name__} as the tokenizer; expected "
            "one with decode(ids)"
        )
    if not marker:
        raise ValueError("after() got an empty text as the marker")
    return AfterText(marker, tokenizer)


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of `ids` character by character: special tokens kept, no spaces tidied."""
    options: dict[str, Any] = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    method = getattr(tokenizer, "_decode", tokenizer.decode)
    if "spaces_between_special_tokens" in inspect.signature(method).parameters:
        options["spaces_between_special_tokens"] = False
    text: str = tokenizer.decode(list(ids), **options)
    return text


def _in_graph(ids: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return True
    return ids.is_cuda and torch.cuda.is_current_stream_capturing()


def _warn_of_prompts_without(marker: After, begins: Tensor) -> None:
    missing = (begins == _NOWHERE).nonzero()[:, 0].tolist()
    if not missing:
        return
    rows = ", ".join(map(str, missing[:_LISTED])) + ", ..." * (len(missing) > _LISTED)
    warnings.warn(
        f"positions=after(...): {len(missing)} of {len(begins)} prompts do not hold {marker} "
        f"(rows {rows}); nothing is steered there",
        FaststeerWarning,
        stacklevel=2,
    )
