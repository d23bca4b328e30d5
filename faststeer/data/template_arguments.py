"""Arguments of a chat template: which ones it takes, found in its source.

A template silently ignores an argument that it does not know, so a misspelt one has no effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser

# Given by transformers, or by faststeer from the messages.
_GIVEN = {
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "raise_exception",
    "strftime_now",
}
_TAGS = {"generation"}


class _Generation(Extension):
    """The block in which a template encloses the assistant's answers, as transformers has it."""

    tags = _TAGS

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@lru_cache(maxsize=16)
def arguments_of(template: str) -> frozenset[str]:
    """Return the names that a template reads besides its messages.

    Raises:
        ValueError: it cannot be parsed.
    """
    environment = Environment(extensions=["jinja2.ext.loopcontrols", _Generation])
    try:
        read = find_undeclared_variables(environment.parse(template))
    except TemplateSyntaxError as error:
        raise ValueError(f"the chat template cannot be parsed: {error}") from error
    return frozenset(read - _GIVEN)


def require_arguments(given: Mapping[str, Any], tokenizer: Any) -> None:
    """Check the arguments for a tokenizer's chat template.

    Raises:
        TypeError: not a mapping of names to values that JSON can hold.
        ValueError: an argument that the template does not read.
    """
    if not isinstance(given, Mapping):
        raise TypeError(
            f"template is a {type(given).__name__}; expected arguments of the chat template, such "
            'as {"enable_thinking": False}'
        )
    try:
        json.dumps(dict(given))
    except TypeError as error:
        raise TypeError(f"template {given!r}: expected values that JSON can hold") from error
    template = tokenizer.chat_template
    if not isinstance(template, str):  # several by name
        template = tokenizer.get_chat_template(tools=given.get("tools"))
    taken = arguments_of(template)
    if unknown := sorted(given.keys() - taken):
        names = ", ".join(sorted(taken)) or "none"
        raise ValueError(f"the chat template takes no argument {unknown[0]!r}; it takes {names}")
