"""The options `--chat`, `--system` and `--template` of the commands that read or ask in chats."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from faststeer.data.chat import ChatFormat

SystemOption = Annotated[
    str | None,
    typer.Option("--system", help="With --chat: the system prompt; default: the template's."),
]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help="With --chat: an argument of the template, such as enable_thinking=false; repeatable.",
    ),
]
_PYTHON = {"True": True, "False": False, "None": None}  # as text these would all count as true


@dataclass(frozen=True)
class ChatOptions:
    """The parsed options: whether texts are chats, their system prompt, template arguments."""

    chat: bool = False
    system: str | None = None
    template: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(
        cls, chat: bool, system: str | None = None, template: Sequence[str] | None = None
    ) -> ChatOptions:
        """Parse the options' values.

        Values of `--template key=value` are JSON, or True, False and None as in Python, or text.

        Raises:
            ValueError: a system prompt or arguments without `--chat`, an argument without a name or
                a value, or one given twice.
        """
        if not chat:
            unused = {"--system": system is not None, "--template": bool(template)}
            if given := [option for option, used in unused.items() if used]:
                raise ValueError(f"{' and '.join(given)}: only with --chat")
        arguments: dict[str, Any] = {}
        for text in template or ():
            key, equals, value = text.partition("=")
            if not key or not equals or key in arguments:
                raise ValueError(
                    f"--template {text!r}: expected key=value, such as enable_thinking=false, each "
                    "key once"
                )
            arguments[key] = _value(value)
        return cls(chat, system, arguments)

    def format(self, tokenizer: Any) -> ChatFormat | None:
        """Return the chat format for a tokenizer; None without `--chat`.

        Raises:
            ValueError: as `ChatFormat`.
        """
        from faststeer.data.chat import ChatFormat

        return ChatFormat(tokenizer, self.system, self.template) if self.chat else None


def _value(text: str) -> Any:
    if text in _PYTHON:
        return _PYTHON[text]
    try:
        return json.loads(text)
    except ValueError:
        return text
