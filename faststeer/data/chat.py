"""Chat messages as texts, through the tokenizer's own template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer's chat template, with a system prompt and arguments of the template.

    Attributes:
        tokenizer: has a chat template.
        system: the system prompt; None for the template's own, if it has one.
        template: arguments of the template, such as ``{"enable_thinking": False}``.

    Raises:
        TypeError: `template` is not a mapping to values that JSON can hold.
        ValueError: no template; one that does not read an argument; one that rejects a system
            prompt or leaves it out.
    """

    tokenizer: Any
    system: str | None = None
    template: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the arguments, once for all texts."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise ValueError("the tokenizer has no chat template; give plain texts")
        if self.template or not isinstance(self.template, Mapping):
            from faststeer.data.template_arguments import require_arguments  # needs jinja2

            require_arguments(self.template, self.tokenizer)
        if self.system is not None:
            self._require_system_prompt(self.system)

    def text(self, messages: Messages | str) -> str:
        """Format messages as `chat_text`. Raises ValueError as it does."""
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        _require_messages(messages)
        if self.system is not None:
            if messages[0]["role"] == "system":
                raise ValueError(
                    "the messages begin with a system prompt of their own, and system= gives "
                    "another; leave one out"
                )
            messages = [{"role": "system", "content": self.system}, *messages]
        return self._rendered(messages)

    @property
    def digest(self) -> str:
        """A digest for metadata: of the template, and behind "+" of system prompt and arguments.

        The second part is left out where neither is given.
        """
        own = self.tokenizer.chat_template
        digest = f"sha256:{_hash(own if isinstance(own, str) else _json(own))}"
        if self.system is None and not self.template:
            return digest
        more = {"system": self.system, "template": dict(self.template)}
        return f"{digest}+{_hash(_json(more))}"

    def _rendered(self, messages: Messages) -> str:
        answered = messages[-1]["role"] == "assistant"
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages),
                tokenize=False,
                add_generation_prompt=not answered,
                continue_final_message=answered,
                **self.template,
            )
        except Exception as error:  # templates are programs, and raise any kind
            raise ValueError(f"the chat template does not take these messages: {error}") from error
        return text

    def _require_system_prompt(self, system: str) -> None:
        if not isinstance(system, str):
            raise TypeError(f"system is a {type(system).__name__}; expected a text")
        try:
            text = self.text("Hello")
        except ValueError as error:
            raise ValueError(f"with a system prompt, {error}") from error
        if system.strip() not in text:  # templates may trim it
            raise ValueError("the chat template leaves out the system prompt")


def chat_text(
    messages: Messages | str,
    tokenizer: Any,
    *,
    system: str | None = None,
    template: Mapping[str, Any] | None = None,
) -> str:
    """Format messages as the model saw them in training, for ``add_special_tokens=False``.

    If the last message is the assistant's, it is left open, so that the last token is its own and
    not the template's. Otherwise the assistant's turn is started. A plain text is one message of a
    user.

    Args:
        messages: each with ``role`` and ``content``, or a plain text.
        tokenizer: has a chat template.
        system: the system prompt, in front of the messages; by default the template's own, if any.
        template: arguments of the template, such as ``{"enable_thinking": False}``.

    Raises:
        TypeError, ValueError: as `ChatFormat`; no messages, something else than messages, a second
            system prompt, an empty last answer, or messages that the template rejects.
    """
    return ChatFormat(tokenizer, system, {} if template is None else template).text(messages)


class InChat:
    """Pairs of texts, from pairs whose sides are messages or a user's plain texts.

    Extract them with ``add_special_tokens=False``: templates add their own. The attribute
    `template` is a digest of the tokenizer's template, system prompt and arguments, which a vector
    made of them states.

    Args:
        pairs: (positive, negative); each side as the messages of `chat_text`.
        tokenizer: as for `chat_text`, like the others.
        system: the system prompt.
        template: arguments of the template.

    Raises:
        TypeError, ValueError: as `ChatFormat`; while iterating, as `chat_text`, with the number of
            the pair.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[Messages | str, Messages | str]],
        tokenizer: Any,
        *,
        system: str | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self.pairs = pairs
        self.chat = ChatFormat(tokenizer, system, {} if template is None else template)

    @property
    def template(self) -> str:
        """The digest of the format, as metadata state it."""
        return self.chat.digest

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for number, (positive, negative) in enumerate(self.pairs):
            try:
                sides = self.chat.text(positive), self.chat.text(negative)
            except ValueError as error:
                raise ValueError(f"pair {number}: {error}") from error
            yield sides


class TextsInChat:
    """Texts from messages or a user's plain texts, for `positive` and `negative` of `extract`.

    Arguments, `template` and errors are those of `InChat`, which has pairs.
    """

    def __init__(
        self,
        texts: Iterable[Messages | str],
        tokenizer: Any,
        *,
        system: str | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self.texts = texts
        self.chat = ChatFormat(tokenizer, system, {} if template is None else template)

    @property
    def template(self) -> str:
        """The digest of the format, as metadata state it."""
        return self.chat.digest

    def __iter__(self) -> Iterator[str]:
        for number, messages in enumerate(self.texts):
            try:
                text = self.chat.text(messages)
            except ValueError as error:
                raise ValueError(f"text {number}: {error}") from error
            yield text


def format_of(*texts: Any) -> ChatFormat | None:
    """Return the chat format that all of the given texts are in; None for other texts.

    Known are `InChat`, `TextsInChat`, and what hands on their attribute `chat`; None among the
    texts counts for nothing.

    Raises:
        ValueError: texts of two formats, or in a chat format and in none.
    """
    given = [getattr(own, "chat", None) for own in texts if own is not None]
    # Of PairsFile the attribute is a bool.
    formats = [own if isinstance(own, ChatFormat) else None for own in given]
    if len({None if own is None else own.digest for own in formats}) > 1:
        raise ValueError(
            "positive and negative texts are not in the same chat format; give both as "
            "faststeer.data.TextsInChat with the same system prompt and template arguments"
        )
    return formats[0] if formats else None


def _require_messages(messages: Any) -> None:
    """Raise ValueError for anything but messages, and for a last answer that is empty."""
    expected = 'a text, or a list of messages such as {"role": "user", "content": "Hi"}'
    if not isinstance(messages, Sequence) or not messages:
        raise ValueError(f"got {messages!r}; expected {expected}")
    for message in messages:
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            raise ValueError(f"got the message {message!r}; expected {expected}")
    role, content = (messages[-1][key] for key in ("role", "content"))
    if role == "assistant" and isinstance(content, str) and not content.strip():
        raise ValueError(
            "the last message, the assistant's, is empty; leave it out, and its turn is started"
        )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
