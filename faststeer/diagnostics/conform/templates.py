"""Templates of settings: the parts of a request's body that steer, as given by the user."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faststeer.diagnostics.conform.subject import KINDS

COEFFICIENT, NONCE = "{coefficient}", "{nonce}"
Body = dict[str, Any]


@dataclass(frozen=True)
class Template:
    """A part of a request's body: JSON text with placeholders, or another server's address.

    ``{coefficient}`` stands for the request's coefficient, ``{nonce}`` for text that no other
    request has. Without an address, the request goes to the server that unsteered ones go to.
    """

    text: str = "{}"
    address: str | None = None

    @classmethod
    def of(cls, given: str, option: str) -> Template:
        """Return the template that an option states: JSON, ``@FILE`` with it, or an address.

        Raises:
            ValueError: it is not.
            OSError: the file cannot be read.
        """
        if given.startswith(("http://", "https://")):
            return cls(address=given.rstrip("/"))
        text = Path(given[1:]).read_text(encoding="utf-8") if given.startswith("@") else given
        template = cls(text)
        try:
            template.body(1.0)
        except ValueError as error:
            raise ValueError(
                f"{option} is not a JSON object, also with 1.0 for {COEFFICIENT}: {error}"
            ) from None
        return template

    @property
    def has_coefficient(self) -> bool:
        """Whether a request states its coefficient."""
        return COEFFICIENT in self.text

    def body(self, coefficient: float) -> Body:
        """Return the part of the body for a coefficient. Raises ValueError for other JSON."""
        text = self.text.replace(COEFFICIENT, repr(float(coefficient)))
        body = json.loads(text.replace(NONCE, uuid.uuid4().hex))
        if not isinstance(body, dict):
            raise ValueError(f"it is a {type(body).__name__}")
        return body


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> Body:
    """Return both bodies as one; objects within them are merged, and else the second counts."""
    both = dict(first)
    for key, own in second.items():
        old = both.get(key)
        both[key] = merged(old, own) if isinstance(old, dict) and isinstance(own, dict) else own
    return both


@dataclass(frozen=True)
class Preset:
    """What is known of a kind of server.

    Args:
        fresh: part of the body of requests that must not read the cache.
        body: part of the body of all requests.
        settings: makes the templates of all settings from those that were given.
    """

    fresh: str | None = None
    body: str = "{}"
    settings: Callable[[Mapping[str, str]], dict[str, str]] = field(default=dict)


def _of_faststeer(given: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of faststeer's plugin for vLLM from terms, or names of vectors."""
    terms = {kind: _term(own, kind) for kind, own in given.items()}
    if "steered" in terms:
        terms.setdefault("prompt", terms["steered"] | {"positions": "prompt"})
        terms.setdefault("early", terms["steered"] | {"positions": "0:16"})
    terms.setdefault("wrong", {"vector": "a vector that does not exist"})
    return {kind: _xargs(own) for kind, own in terms.items()}


def _term(given: str, kind: str) -> Body:
    if given.startswith(("@", "http://", "https://")):
        raise ValueError(f"{kind}: {given!r} is not a vector's name or a term in JSON")
    if not given.lstrip().startswith("{"):
        return {"vector": given}
    try:
        term = json.loads(given)
    except ValueError as error:
        raise ValueError(f"{kind}: {given!r} is not a term in JSON: {error}") from None
    return dict(term)


def _xargs(term: Body) -> str:
    terms = json.dumps([term | {"coefficient": COEFFICIENT}])
    terms = terms.replace(json.dumps(COEFFICIENT), COEFFICIENT)
    return json.dumps({"vllm_xargs": {"faststeer": terms}})


PRESETS = {
    "none": Preset(),
    "vllm": Preset('{"cache_salt": "{nonce}"}', '{"ignore_eos": true}'),
    "faststeer": Preset('{"cache_salt": "{nonce}"}', '{"ignore_eos": true}', _of_faststeer),
    "llama.cpp": Preset('{"cache_prompt": false}', '{"ignore_eos": true}'),
}


def settings_of(preset: str, given: Mapping[str, str]) -> dict[str, Template]:
    """Return the templates of all settings, by kind.

    Args:
        preset: a name of `PRESETS`.
        given: by kind, what the user stated; for faststeer's plugin a vector's name or a term.

    Raises:
        ValueError: one is not possible, or there is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"--preset is {preset!r}; expected one of {', '.join(PRESETS)}")
    if unknown := given.keys() - KINDS.keys():
        raise ValueError(f"settings {sorted(unknown)} are unknown; expected some of {list(KINDS)}")
    stated = PRESETS[preset].settings(given)
    templates = {
        kind: Template.of(own, f"--{kind.replace('_', '-')}") for kind, own in stated.items()
    }
    if "last_layer" in templates and "steered" in templates:
        own, steered = templates["last_layer"], templates["steered"]
        if steered.has_coefficient and not own.has_coefficient:
            raise ValueError(
                f"--last-layer has no {COEFFICIENT}, and --steered has: the last layer is also "
                "asked for at 100 times the coefficient"
            )
    return templates
