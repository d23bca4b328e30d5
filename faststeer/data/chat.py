"""Chat messages as texts, through the tokenizer's own template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Messages = Sequence[Mapping[str, str]]


def chat_text(messages: Messages | str, tokenizer: Any) -> str:
    """Format messages as the model saw them in training, for ``add_special_tokens=False``.

    If the last message is the assistant's, it is left open, so that the last token is its own and
    not the template's. Otherwise the assistant's turn is started. A plain text is one message of a
    user.

    Raises:
        ValueError: the tokenizer has no template, or the template rejects these messages.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the tokenizer has no chat template; give plain texts")
    answered = bool(messages) and messages[-1].get("role") == "assistant"
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages),
            tokenize=False,
            add_generation_prompt=not answered,
            continue_final_message=answered,
        )
    except Exception as error:  # templates are programs, and raise any kind
        raise ValueError(f"the chat template does not take these messages: {error}") from error
    return text


class InChat:
    """Pairs of texts, from pairs whose sides are messages or a user's plain texts.

    Extract them with ``add_special_tokens=False``: templates add their own. The attribute
    `template` is a digest of the tokenizer's template, which a vector made of them states.

    Raises:
        ValueError: as `chat_text`, with the number of the pair.
    """

    def __init__(
        self, pairs: Iterable[tuple[Messages | str, Messages | str]], tokenizer: Any
    ) -> None:
        self.pairs = pairs
        self.tokenizer = tokenizer
        self.template = template_digest(tokenizer)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for number, (positive, negative) in enumerate(self.pairs):
            try:
                sides = chat_text(positive, self.tokenizer), chat_text(negative, self.tokenizer)
            except ValueError as error:
                raise ValueError(f"pair {number}: {error}") from error
            yield sides


def template_digest(tokenizer: Any) -> str | None:
    """Return the digest of a tokenizer's chat template for metadata; None if it has none."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return None
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
