"""A deterministic stand-in of a steered language model: words as tokens, two layers, a cache."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

HIDDEN = 16
WORDS = [f" w{at}" for at in range(48)]  # that answers consist of
VECTORS = ("one", "two")

Steer = Mapping[str, Any]  # "vector", "coefficient", "positions", "layer"
Array = Any


@dataclass
class Generated:
    """One answer: its tokens, and the log probabilities that each was drawn from."""

    tokens: list[str] = field(default_factory=list)
    logprobs: list[dict[str, float]] = field(default_factory=list)


def split(text: str) -> list[str]:
    """Return the tokens of a text: words with the space before them, and all else by itself."""
    return re.findall(r"\s?\w+|\s?[^\w\s]|\s", text)


@cache
def random_array(name: str, *shape: int) -> Array:
    """Return normal numbers that depend on a name alone."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


_KEYS, _MIX = random_array("keys", HIDDEN, HIDDEN) / 4, random_array("mix", HIDDEN, HIDDEN) / 2
_HEAD = random_array("head", len(WORDS), HIDDEN)


def scaled_vector(steer: Steer | None) -> Array:
    """Return coefficient times vector, zeros for no steering."""
    if steer is None:
        return np.zeros(HIDDEN)
    return steer["coefficient"] * random_array(f"vector {steer['vector']}", HIDDEN)


def at_token(steer: Steer | None, position: int, prompt_length: int, layer: str) -> Array:
    """Return what is added to the stream of a token at a layer, "first" or "last"."""
    if steer is None or steer.get("layer", "first") != layer:
        return np.zeros(HIDDEN)
    positions = steer.get("positions", "all")
    stop = {"all": position + 1, "prompt": prompt_length, "early": 16}[positions]
    return scaled_vector(steer) if position < stop else np.zeros(HIDDEN)


def state_of(token: str, added: Array) -> Array:
    """Return what a token leaves for those behind it, as keys and values do."""
    return np.tanh(_KEYS @ (random_array(token, HIDDEN) + added))


def logprobs_after(states: list[Array], added: Array) -> Array:
    """Return the log probabilities of all words behind a sequence of states."""
    hidden = np.tanh(_MIX @ (2 * states[-1] + 3 * np.mean(states, 0))) + added
    logits = _HEAD @ hidden
    return logits - np.log(np.exp(logits).sum())


def listed(logprobs: Array, chosen: int) -> dict[str, float]:
    """Return the five likeliest words and the chosen one, likeliest first."""
    likeliest = np.argsort(-logprobs, kind="stable")[:5]
    return {WORDS[at]: float(logprobs[at]) for at in dict.fromkeys([*likeliest, chosen])}


def rendered(message: str) -> str:
    """Return the prompt that the chat template makes of a message."""
    return f"User: {message} Answer:"


def streamed(answer: dict[str, Any], chat: bool) -> Iterator[dict[str, Any]]:
    """Yield an answer as parts of one token, the usage last."""
    for choice in answer["choices"]:
        listed = choice.get("logprobs")
        text = choice["message"]["content"] if chat else choice["text"]
        for at, token in enumerate(split(text)):
            part: dict[str, Any] = {"index": choice["index"]}
            part |= {"delta": {"content": token}} if chat else {"text": token}
            if listed:
                own = {name: values[at : at + 1] for name, values in listed.items()}
                part["logprobs"] = own
            yield {"choices": [part]}
    yield {"choices": [], "usage": answer["usage"]}
