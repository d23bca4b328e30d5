"""Add, replace and remove the vectors of a running engine.

A name belongs to one content at a time, and a request to the contents that its names had when it
was checked: replacing or removing a vector changes nothing for requests that are running, waiting
or preempted. A content leaves the engine when another one needs its place and no request uses it.

Requests are checked against a `VectorStore` here, and steered by the workers, which hold contents
by digest. So the workers get a content before the store names it, and they may drop only what no
request can still use: neither one that the engine has (it looks while it handles the message), nor
one that is checked and not sent yet (`faststeer.vllm.leases`), nor one to come (the store's names,
which only the change itself alters). Blocks of the prefix cache are keyed by digests and stay
valid.
"""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from faststeer.vectors.steering_vector import SteeringVector
from faststeer.vllm.plugin import private_names
from faststeer.vllm.vector_store import VectorStore

_STATED = (
    "mode",
    "floor",
    "ceiling",
    "positions",
    "layers",
    "coefficient",
)  # of the metadata: how it is to steer
_LONGEST_NAME = 128


class NoPlaceError(ValueError):
    """All places for vectors are in use."""


def add_vector(llm: Any, name: str, vector: SteeringVector) -> None:
    """Add a vector to a running engine, or replace the one of that name.

    Requests that are not finished keep the content that they were checked with.

    Args:
        llm: a ``vllm.LLM``.
        name: by which requests name it.
        vector: it has to fit the model, and to act where the engine steers.

    Raises:
        TypeError: `llm` or `vector` is something else.
        ValueError: the vector does not fit, the name is not possible, the engine has no vectors, or
            its vectors cannot be changed. Nothing has changed.
        NoPlaceError: a ValueError; all places are in use. Nothing has changed.
        RuntimeError: a worker failed. The vectors that are served have not changed.
    """
    names = change_names()
    addition = Addition(store_of(llm), name, vector)
    done = False
    while not done:
        with worker_errors(name):
            replies = names.put_in_engine(llm, *addition.message())
        done = addition.settle(replies)


def remove_vector(llm: Any, name: str) -> None:
    """Remove a vector from a running engine: new requests cannot name it.

    Requests that are not finished keep it.

    Args:
        llm: a ``vllm.LLM``.
        name: of the vector.

    Raises:
        TypeError: `llm` is something else.
        ValueError: no such vector, or the engine's vectors cannot be changed.
    """
    store_of(llm).remove(name)


def vectors(llm: Any) -> dict[str, dict[str, Any]]:
    """Return the vectors that requests may name, by name.

    Args:
        llm: a ``vllm.LLM``.

    Returns:
        For each its ``digest``, ``site``, ``layers``, ``norms`` (one per layer) and ``stated``, the
        use that its metadata state.

    Raises:
        TypeError: `llm` is something else.
        ValueError: the engine has no vectors, or they cannot be changed.
    """
    return described(store_of(llm))


def change_names() -> Any:
    """Return the module of the private names by which this version of vLLM changes vectors."""
    return importlib.import_module(f"{private_names()}.change_vectors")


def store_of(engine: Any) -> VectorStore:
    """Return the vectors of an engine that may be changed. Raises as `vectors`."""
    store: VectorStore | None = change_names().checks_of(engine).store
    if store is None:
        raise ValueError(
            "this engine has no steering vectors: start it with FASTSTEER_VECTORS=folder, or with "
            'additional_config {"faststeer": {"vectors": "folder"}}'
        )
    return store


def described(store: VectorStore) -> dict[str, dict[str, Any]]:
    """Return what `vectors` returns."""
    with store.lock:
        return {name: _description(own, store.digests[name]) for name, own in store.vectors.items()}


def _description(vector: SteeringVector, digest: str) -> dict[str, Any]:
    return {
        "digest": digest,
        "site": vector.site,
        "layers": list(vector.layers),
        # In float64: the square of a float32 can be more than float32 holds.
        "norms": [float(own.double().norm()) for own in vector.directions.values()],
        "stated": {key: vector.metadata[key] for key in _STATED if key in vector.metadata},
    }


class Addition:
    """A vector on its way into an engine: checked, sent to the workers, then named by the store."""

    def __init__(self, store: VectorStore, name: str, vector: SteeringVector) -> None:
        """Check the vector. Raises TypeError or ValueError, as `add_vector`."""
        self._store, self._name, self._vector = store, name, vector
        require_name(name)
        self._digest = store.check(name, vector)
        try:
            json.dumps(_description(vector, self._digest), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"vector {name!r} states a use that JSON cannot hold ({error})"
            ) from None
        self._content = replace(vector, metadata={}).to_bytes()
        self._collected = False

    def message(self) -> tuple[str, bytes, list[str]]:
        """Return the digest, the content, and what the workers must keep as things stand now."""
        return self._digest, self._content, sorted(self._store.needed())

    def settle(self, replies: Sequence[str]) -> bool:
        """Let the store name the vector if all workers have it. Returns False to send it again.

        Raises:
            NoPlaceError: a worker has no place for it, even after a second time.
        """
        refusals = [reply for reply in replies if reply]
        if not refusals:
            self._store.put(self._name, self._vector)
            return True
        if self._collected:
            raise NoPlaceError(f"vector {self._name!r} has no place: {refusals[0]}")
        gc.collect()  # requests that were refused or are finished may be part of reference cycles
        self._collected = True
        return False


def require_name(name: object) -> None:
    """Raise TypeError or ValueError for what cannot be the name of a vector."""
    if not isinstance(name, str):
        raise TypeError(f"the name is a {type(name).__name__}; expected a string")
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or "/" in name:
        raise ValueError(
            f"the name {name[:_LONGEST_NAME]!r} is not possible; expected 1 to {_LONGEST_NAME} "
            "printable characters without '/'"
        )


@contextmanager
def worker_errors(name: str) -> Iterator[None]:
    """Raise a RuntimeError in words for whatever a worker, or the way to it, raises."""
    try:
        yield
    except Exception as error:
        raise RuntimeError(
            f"the engine could not take vector {name!r} ({type(error).__name__}: {error}); the "
            "vectors that are served have not changed"
        ) from error
