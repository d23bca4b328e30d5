"""A Python library as a subject, by the name of a function that makes it."""

from __future__ import annotations

import importlib
import os
import sys

from faststeer.diagnostics.conform.subject import Subject

_MEMBERS = ("name", "kinds", "coefficients", "has_fresh", "without", "generate", "render")


def module_subject(target: str) -> Subject:
    """Return the subject that a function makes.

    Args:
        target: ``module:function``; the module is found from the current folder too. The function
            takes no arguments.

    Raises:
        ValueError: there is no such function, or what it returns is not a `Subject`.
    """
    module_name, colon, function_name = target.partition(":")
    if not colon or not module_name or not function_name:
        raise ValueError(f"--module is {target!r}; expected MODULE:FUNCTION")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--module {target}: {error}") from error
    if not callable(function):
        raise ValueError(f"--module {target}: {function_name} is not a function")
    subject: Subject = function()
    if missing := [own for own in _MEMBERS if not hasattr(subject, own)]:
        raise ValueError(
            f"--module {target} returns a {type(subject).__name__} without {', '.join(missing)}; "
            "expected all of faststeer.diagnostics.conform.Subject"
        )
    return subject
