"""What a client asks for: a prompt, its steering, how many tokens, and how they are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from faststeer.data.chat import chat_text
from faststeer.data.encoding import token_ids
from faststeer.steering.conditions import Condition
from faststeer.steering.resolved_use import resolve_mode
from faststeer.steering.scope_text import require_scope_text, scope_of_text
from faststeer.steering.scopes import Scope
from faststeer.vectors.arguments import finite
from faststeer.vectors.position_range import position_range
from faststeer.vectors.stated_use import require_mode
from faststeer.vectors.steering_vector import SteeringVector

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, eq=False)
class Use:
    """One vector of a request, and how it steers; None is what the vector states.

    Attributes:
        vector: directions ``[H]``, one per layer.
        coefficient: the factor on them, or as `mode` defines; finite.
        layers: 0-based decoder layers.
        positions: a name such as "all" or "generated", a scope as text, such as
            'after("</think>")', or a range.
        mode: "add", "project", "clamp" or "cap".
        when: a `faststeer.when`: it steers only a prompt that meets it; None steers every prompt.
    """

    vector: SteeringVector
    coefficient: float
    layers: tuple[int, ...] | None = None
    positions: str | range | None = None
    mode: str | None = None
    when: Condition | None = None

    @property
    def place(self) -> tuple[object, ...]:
        """What of it an active vector of the model has; its coefficient is the row's."""
        return id(self.vector), self.layers, self.positions, self.mode, _decided_by(self.when)

    @property
    def acts(self) -> bool:
        """Whether it changes anything; a coefficient of 0 does nothing unless it clamps."""
        return bool(self.coefficient) or resolve_mode(self.vector, self.mode) == "clamp"

    def scope(self, tokenizer: Any) -> str | range | Scope | None:
        """Return `positions` as `steer` takes them. Raises as `scope_of_text`."""
        if isinstance(self.positions, str):
            return scope_of_text(self.positions, tokenizer)
        return self.positions

    def require_valid(self) -> None:
        """Raise TypeError or ValueError for what no model could be steered with."""
        if not isinstance(self.vector, SteeringVector):
            raise TypeError(
                f"a vector is a {type(self.vector).__name__}; expected a SteeringVector"
            )
        finite(self.coefficient, f"coefficient of {self.vector.name!r}")
        if self.mode is not None:
            require_mode(self.mode)
        if isinstance(self.positions, str):
            require_scope_text(self.positions)
        elif self.positions is not None:
            position_range(self.positions)
        if not (self.when is None or isinstance(self.when, Condition)):
            raise TypeError(
                f"when of {self.vector.name!r} is a {type(self.when).__name__}; expected a "
                "faststeer.when(...)"
            )


@dataclass(frozen=True)
class Sampling:
    """How a row chooses its tokens. The same seed gives the same answer in every batch.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: tokens are drawn from the likeliest that together have this probability.
        seed: of the draws.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError for a temperature, a share or a seed that is out of range."""
        if finite(self.temperature, "temperature") < 0:
            raise ValueError(f"temperature is {self.temperature}; expected 0 or more")
        if not 0 < finite(self.top_p, "top_p") <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected more than 0, and 1 at most")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed is {self.seed}; expected 0 up to {(1 << 63) - 1}")


@dataclass(frozen=True, eq=False)
class Request:
    """A prompt to answer twice, unsteered and steered.

    Attributes:
        prompt: a text to continue, or the messages of a chat.
        uses: the vectors, all active together.
        max_new_tokens: the most tokens per answer.
        sampling: how tokens are chosen.
        unsteered_prompt: for the unsteered answer, where a chat has two histories; else `prompt`.
    """

    prompt: str | Messages
    uses: Sequence[Use] = ()
    max_new_tokens: int = 64
    sampling: Sampling = field(default_factory=Sampling)
    unsteered_prompt: str | Messages | None = None

    def require_valid(self) -> None:
        """Raise TypeError or ValueError for what no model could answer."""
        if isinstance(self.max_new_tokens, bool) or not isinstance(self.max_new_tokens, int):
            kind = type(self.max_new_tokens).__name__
            raise TypeError(f"max_new_tokens is a {kind}; expected a whole number")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; expected at least 1")
        places = set()
        for use in self.uses:
            use.require_valid()
            if use.place in places:
                raise ValueError(
                    f"vector {use.vector.name!r} is given twice at the same layers; give it once, "
                    "with the sum of the coefficients"
                )
            places.add(use.place)

    def prompts(self, tokenizer: Any, context: int | None) -> tuple[list[int], list[int]]:
        """Return the token ids of the unsteered and of the steered prompt.

        Args:
            tokenizer: has a chat template where messages are given.
            context: how many tokens the model can hold; None where it states no limit.

        Raises:
            ValueError: a prompt without tokens, one that leaves no room for the answer, or
                messages that the chat template rejects.
        """
        steered = _ids(tokenizer, self.prompt)
        unsteered = steered
        if self.unsteered_prompt is not None:
            unsteered = _ids(tokenizer, self.unsteered_prompt)
        for ids in (unsteered, steered):
            if not ids:
                raise ValueError("the prompt is empty; there is nothing to continue")
            if context is not None and len(ids) + self.max_new_tokens > context:
                raise ValueError(
                    f"the prompt has {len(ids)} tokens and the answer up to {self.max_new_tokens}; "
                    f"the model holds {context} together: shorten the prompt, ask for fewer "
                    "tokens, or start a new chat"
                )
        return unsteered, steered


def _decided_by(condition: Condition | None) -> tuple[object, ...]:
    """Return what is equal for conditions that decide alike; their direction is the vector's."""
    if condition is None:
        return ()
    known = {"vector": id(condition.vector), "direction": None, "key": None}
    facts = (known.get(own.name, getattr(condition, own.name)) for own in fields(condition))
    return type(condition), *facts


def _ids(tokenizer: Any, prompt: str | Messages) -> list[int]:
    if isinstance(prompt, str):
        return token_ids(tokenizer, prompt)[0]
    return token_ids(tokenizer, chat_text(prompt, tokenizer), add_special_tokens=False)[0]
