"""HTTP routes that add, replace and remove vectors while a vLLM server runs.

Off by default: vLLM attaches endpoint plugins only where ``VLLM_PLUGINS`` names them, and this one
needs a token in ``FASTSTEER_TOKEN`` besides. Requests send it as ``Authorization: Bearer TOKEN``,
or, where that header carries the server's API key, as ``X-Faststeer-Token: TOKEN``.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request, Response

from faststeer.vectors.steering_vector import SteeringVector
from faststeer.vllm.serving import (
    Addition,
    NoPlaceError,
    change_names,
    described,
    require_name,
    store_of,
    worker_errors,
)
from faststeer.vllm.vector_store import VectorStore

TOKEN_VARIABLE = "FASTSTEER_TOKEN"
TOKEN_HEADER = "X-Faststeer-Token"
_PATH = "/v1/steering/vectors"
_ROOM = 1 << 20  # of a file, for its header and metadata


class SteeringEndpoint:
    """The endpoint plugin: ``GET``, ``PUT`` and ``DELETE`` under ``/v1/steering/vectors``."""

    name = "faststeer"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._token = b""
        self._engine: Any = None
        self._store: VectorStore | None = None
        self._changing = asyncio.Lock()  # one change at a time

    def attach_router(self, app: Any) -> None:
        """Add the routes to a FastAPI app; without a token, log why there are none."""
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            logging.getLogger("vllm.faststeer").error(
                "faststeer adds no routes: %s is not set. It is the token that requests to %s have "
                "to carry; set it to a long random text to change vectors while serving",
                TOKEN_VARIABLE,
                _PATH,
            )
            return
        self._token = token.encode()
        router = APIRouter(dependencies=[Depends(self._require_token)])
        one = f"{_PATH}/{{name}}"
        router.add_api_route(_PATH, self.list_vectors, methods=["GET"])
        router.add_api_route(one, self.put_vector, methods=["PUT"])
        router.add_api_route(one, self.delete_vector, methods=["DELETE"])
        app.include_router(router)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Find the vectors of the engine.

        Raises:
            TypeError: an engine that is not known.
            ValueError: an engine without vectors, or one of several that would have to change
                together.
        """
        if self._token:
            self._store, self._engine = store_of(engine_client), engine_client

    async def list_vectors(self) -> Response:
        """Return the vectors that requests may name."""
        found = described(self._ready())
        return _json(
            200, {"object": "list", "data": [{"name": n, **own} for n, own in found.items()]}
        )

    async def put_vector(self, name: str, request: Request) -> Response:
        """Add or replace a vector: 201 or 200, 400 for a wrong one, 409 where no place is free."""
        store = self._ready()
        body = await _body(request, _ROOM + 4 * store.hidden_size * store.num_layers)
        async with self._changing:
            new = name not in store.vectors
            try:
                require_name(name)
                # In a thread: a GGUF header can take seconds to read.
                vector = await asyncio.to_thread(SteeringVector.from_bytes, body)
                await self._add(Addition(store, name, vector), name)
            except NoPlaceError as error:
                raise HTTPException(409, str(error)) from None
            except (ValueError, ModuleNotFoundError) as error:
                raise HTTPException(400, f"{name!r}: {error}") from None
            except RuntimeError as error:
                raise HTTPException(500, str(error)) from error
            return _json(201 if new else 200, {"name": name, **described(store)[name]})

    async def delete_vector(self, name: str) -> Response:
        """Remove a vector: 204, or 404 where there is none of that name."""
        store = self._ready()
        async with self._changing:
            try:
                store.remove(name)
            except ValueError as error:
                raise HTTPException(404, str(error)) from None
        return Response(status_code=204)

    async def _add(self, addition: Addition, name: str) -> None:
        names, done = change_names(), False
        while not done:
            with worker_errors(name):
                replies = await names.put_in_server(self._engine, *addition.message())
            done = addition.settle(replies)

    def _ready(self) -> VectorStore:
        if self._store is None:
            raise HTTPException(503, "the engine is not ready")
        return self._store

    async def _require_token(self, request: Request) -> None:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        own = request.headers.get(TOKEN_HEADER, "")
        matches = hmac.compare_digest(own.strip().encode(), self._token)
        if scheme.lower() == "bearer":
            matches |= hmac.compare_digest(bearer.strip().encode(), self._token)
        if not matches:
            raise HTTPException(
                401,
                f"the token is missing or wrong; send that of {TOKEN_VARIABLE} as 'Authorization: "
                f"Bearer TOKEN', or as '{TOKEN_HEADER}: TOKEN' beside an API key",
                {"WWW-Authenticate": "Bearer"},
            )


async def _body(request: Request, limit: int) -> bytes:
    """Return the body of a request, of which no more than the limit is held."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > limit:
            raise HTTPException(
                413, f"the file has more than {limit:,} bytes, which no vector of this model has"
            )
    return bytes(found)


def _json(status: int, content: Any) -> Response:
    # Starlette's JSONResponse cannot encode every text that metadata can hold.
    return Response(json.dumps(content), status, media_type="application/json")
