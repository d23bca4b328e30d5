"""Scopes that follow what is written, in the prompt and in the answer as it comes.

An automaton over token ids finds their markers. A token that holds a marker's end and more counts
as marker: what is behind the marker begins with the next token.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from faststeer.steering.automata import TokenAutomaton
from faststeer.steering.scopes import Scope
from faststeer.steering.token_positions import MarkerEnds, PromptLayout, TokenPositions
from faststeer.steering.vocabulary import vocabulary_size
from faststeer.utils.warnings import FaststeerWarning

_NOWHERE = torch.iinfo(torch.int64).max  # a column that no token reaches
_LISTED = 10  # rows that a warning names one by one


class Written(Scope):
    """A scope that depends on the tokens before: `automaton` follows them.

    Two of the same `key` are the same.
    """

    def __init__(self, words: str, automaton: TokenAutomaton, tokenizer: Any = None) -> None:
        """Create the scope.

        Args:
            words: as messages name it.
            automaton: what follows its markers.
            tokenizer: of markers given as text: the same text under another one is another marker.
        """
        self.words = words
        self.automaton: TokenAutomaton = automaton
        self.tokenizer = tokenizer  # kept, so that no other one gets its id
        of = f", of tokenizer {id(tokenizer)} of {vocabulary_size(tokenizer)} tokens"
        self.key: str = words if tokenizer is None else words + of

    def __str__(self) -> str:
        """Return the scope in words."""
        return self.words

    def __eq__(self, other: object) -> bool:
        """Return whether the other scope has the same tokens in it, of any sequence."""
        return isinstance(other, Written) and other.key == self.key

    def __hash__(self) -> int:
        """Return the hash of the key."""
        return hash(self.key)

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool.

        Raises:
            ValueError: the ids of these tokens, or of those before, are not known.
        """
        return self.inside(tokens) & (tokens.positions >= 0)

    def inside(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens follow on a state of the scope ``[B, T]``, and keep their states."""
        if tokens.ids is None:
            raise ValueError(
                f"positions={self.words} has to see the ids of all tokens, and this forward has "
                "embeddings: call generate with input_ids, or a text model with the ids"
            )
        ids = torch.where(tokens.positions >= 0, tokens.ids, -1)
        before, after = self.automaton.run(self._start(tokens, ids), ids)
        if tokens.memory is not None:
            tokens.memory.write(self.key, tokens, after)
        return self.automaton.on(ids.device).inside[before]

    def _start(self, tokens: TokenPositions, ids: Tensor) -> Tensor:
        """Return the state ``[B]`` before these tokens."""
        past, prompts = tokens.past, tokens.prompts.ids
        if isinstance(past, int):
            if past == 0:
                return torch.zeros_like(ids[:, 0])
            if prompts is not None and past <= prompts.shape[1] and not _in_graph(ids):
                # The prompts of a generate are known as a whole, whatever its cache holds already.
                seen = prompts[:, :past].to(ids.device)
                return self.automaton.run(torch.zeros_like(seen[:, 0]), seen)[1][:, -1]
        if tokens.memory is None:
            raise ValueError(f"positions={self.words} has to see whole sequences here")
        return tokens.memory.before(self.key, tokens).to(ids.device)


class After(Written):
    """What follows a marker's last occurrence in the prompt, or else its first in the answer."""

    def mask(self, tokens: TokenPositions) -> Tensor:
        """Return which tokens are in it, ``[B, T]`` bool. Raises as `Written.mask`.

        Where all prompts are known to hold the marker, the text that follows is not looked at.
        """
        ends = tokens.prompts.ends.get(self.key)
        if ends is None:
            ends = self.look_up(tokens.prompts)
        begins = ends.columns
        each = len(tokens.positions) // len(begins)  # sequences per prompt
        if each > 1:
            begins = begins.repeat_interleave(each)
        found = tokens.columns >= begins[:, None]
        if not ends.everywhere:  # else all that is generated is in it, whatever it is
            answered = tokens.positions >= tokens.lengths
            found = torch.where(answered, self.inside(tokens), found)
        return found & (tokens.positions >= 0)

    def look_up(self, prompts: PromptLayout) -> MarkerEnds:
        """Return where the marker ends in the prompts, and keep it with them.

        Inside a graph nothing is kept.

        Raises:
            ValueError: the prompts' ids are not known.
        """
        if prompts.ids is None:
            raise ValueError(
                f"positions={self.words} has to see the prompt's ids, and this forward has "
                "embeddings or a part of the prompt: call generate with input_ids, or a text model "
                "with the ids of the whole prompt"
            )
        columns = self.columns_behind(prompts.ids)
        if _in_graph(prompts.ids):
            return MarkerEnds(columns, None)
        ends = MarkerEnds(columns, not bool((columns == _NOWHERE).any()))
        prompts.ends[self.key] = ends
        return ends

    def columns_behind(self, ids: Tensor) -> Tensor:
        """Return the first column ``[B]`` int64 behind the last occurrence in ids ``[B, P]``.

        `ids`: -1 for padding. Where it does not occur, this is a column that no token reaches.
        """
        columns = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        begins = torch.where(self.automaton.completions(ids), columns, 0).amax(1)
        return torch.where(begins == 0, _NOWHERE, begins)

    def warn_of_absence(self, prompts: PromptLayout, states: Tensor | None = None) -> None:
        """Warn of prompts without the marker, where it was looked up.

        `states` ``[B]``: after their answers, where there are any, which may hold it.
        """
        ends = prompts.ends.get(self.key)
        if ends is None or ends.everywhere:
            return
        missing = ends.columns == _NOWHERE
        if states is not None and len(states) and len(states) % len(missing) == 0:
            inside = self.automaton.on(states.device).inside[states.long()]
            missing = missing & ~inside.view(len(missing), -1).any(1).to(missing.device)
        rows = missing.nonzero()[:, 0].tolist()
        if not rows:
            return
        listed = ", ".join(map(str, rows[:_LISTED])) + ", ..." * (len(rows) > _LISTED)
        answers = "" if states is None else ", and their answers do not"
        warnings.warn(
            f"positions={self.words}: {len(rows)} of {len(missing)} prompts do not hold the "
            f"marker{answers} (rows {listed}); nothing is steered there",
            FaststeerWarning,
            stacklevel=2,
        )


def _in_graph(ids: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return True
    return ids.is_cuda and torch.cuda.is_current_stream_capturing()
