"""Scopes as text: what Python has, without the package's name and the tokenizer.

Examples: ``after("</think>")``, ``between("<think>", "</think>") & "generated"``, ``~at([13])``.
Names such as "generated" and "first(8)" are texts of their own kind.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from faststeer.steering.scopes import Scope
from faststeer.steering.written import after, at, between, first, until
from faststeer.vectors.position_range import position_range

_MAKERS: dict[str, Callable[..., Scope]] = {
    "after": after,
    "at": at,
    "between": between,
    "first": first,
    "until": until,
}
_OF_TEXT = ("after", "between", "until")  # they take markers, and the tokenizer that writes them
_OPERATORS = {ast.BitAnd: operator.and_, ast.BitOr: operator.or_}
_LONGEST = 300  # characters: far more than a scope needs, and less than Python's stack holds
EXAMPLES = 'after("</think>"), until(…), between("<think>", "</think>"), first(8), at([13])'


def require_scope_text(text: str) -> None:
    """Raise ValueError for a text that is neither a name of positions nor a scope.

    What only a tokenizer knows, and values such as `first(0)`, are left to `scope_of_text`.
    """
    if "(" not in text or is_name(text):
        position_range(text)
        return
    _require_scope(_parse(text), text)


def scope_of_text(text: str, tokenizer: Any) -> str | Scope:
    """Return what `steer` takes as ``positions=``: a name as it is, or the scope.

    Args:
        text: a name of positions, or a scope; at most 300 characters.
        tokenizer: the one that makes the prompts.

    Raises:
        TypeError, ValueError: another text; and as the functions that it names.
    """
    require_scope_text(text)
    if "(" not in text or is_name(text):
        return text
    try:
        return _value(_parse(text), tokenizer)
    except TypeError as error:
        raise TypeError(f"positions {text!r}: {error}") from None
    except ValueError as error:
        raise ValueError(f"positions {text!r}: {error}") from None


def python_of(text: str) -> str:
    """Return the Python of a text, with `faststeer` and `tokenizer` as names. Raises ValueError."""
    require_scope_text(text)
    if "(" not in text or is_name(text):
        return repr(text)
    tree = _parse(text)
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        name = _called(call)
        call.func = ast.Attribute(ast.Name("faststeer"), name)
        if name in _OF_TEXT and isinstance(call.args[0], ast.Constant):
            call.args.append(ast.Name("tokenizer"))
    return ast.unparse(tree)


def is_name(text: str) -> bool:
    """Return whether a text names positions, such as "generated" or "first(8)"."""
    try:
        position_range(text)
    except ValueError:
        return False
    return True


def _parse(text: str) -> ast.expr:
    if len(text) <= _LONGEST:
        with suppress(MemoryError, RecursionError, SyntaxError, ValueError):  # not Python
            return ast.parse(text.strip(), mode="eval").body
    raise _unknown(text)


def _unknown(text: str) -> ValueError:
    shown = text if len(text) <= 80 else text[:77] + "…"
    return ValueError(
        f'positions {shown!r} are unknown; expected a name such as "generated", or {EXAMPLES}, '
        "which &, | and ~ combine"
    )


def _require_scope(node: ast.expr, text: str) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        _require_scope(node.left, text)
        _require_scope(node.right, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
        _require_scope(node.operand, text)
    elif isinstance(node, ast.Call):
        if _called(node) not in _MAKERS or node.keywords or not node.args:
            raise _unknown(text)
        for argument in node.args:
            _require_literal(argument, text)
    elif not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        raise _unknown(text)


def _require_literal(node: ast.expr, text: str) -> None:
    numbers = node.elts if isinstance(node, (ast.List, ast.Tuple)) else [node]
    kinds = (int, str) if numbers == [node] else (int,)
    for own in numbers:
        if not (isinstance(own, ast.Constant) and isinstance(own.value, kinds)):
            raise _unknown(text)


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _value(node: ast.expr, tokenizer: Any) -> str | Scope:
    """Return what Python would make of a node that `_require_scope` has passed."""
    if isinstance(node, ast.BinOp):
        sides = _value(node.left, tokenizer), _value(node.right, tokenizer)
        if not any(isinstance(own, Scope) for own in sides):
            raise ValueError("& and | take names on one side only")
        combined: Scope = _OPERATORS[type(node.op)](*sides)
        return combined
    if isinstance(node, ast.UnaryOp):
        operand = _value(node.operand, tokenizer)
        if not isinstance(operand, Scope):
            raise ValueError("~ takes no name")
        return ~operand
    if isinstance(node, ast.Call):
        given = [ast.literal_eval(own) for own in node.args]
        name = _called(node)
        if name in _OF_TEXT and isinstance(given[0], str):
            given.append(tokenizer)
        return _MAKERS[name](*given)
    name = str(ast.literal_eval(node))
    position_range(name)
    return name
