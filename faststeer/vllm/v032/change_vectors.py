"""The private names of vLLM 0.32 by which the vectors of a running engine are changed."""

from __future__ import annotations

import copy
import functools
from typing import Any

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.core_client import AsyncMPClient, InprocClient, SyncMPClient
from vllm.v1.worker.gpu_worker import Worker

from faststeer.vectors.steering_vector import SteeringVector
from faststeer.vllm.engine_steering import EngineSteering
from faststeer.vllm.leases import LeasedTerms
from faststeer.vllm.request_checks import CHECKED_KEY, RequestChecks
from faststeer.vllm.v032.request_data import terms_of

# What is called or replaced.
SIGNATURES = [
    (EngineCore.preprocess_add_request, "self request"),
    (EngineCore.collective_rpc, "self method timeout args kwargs"),
    (SyncMPClient.call_utility, "self method args"),
    (AsyncMPClient.call_utility_async, "self method args"),
]


def change_vectors() -> None:
    """Let engines take vectors while they serve."""
    EngineCore.faststeer_put = _put_in_all_workers
    EngineCore.preprocess_add_request = _ending_leases(EngineCore.preprocess_add_request)
    Worker.faststeer_put = _put_in_worker


def checks_of(engine: Any) -> RequestChecks:
    """Return the checks of the requests that a process answers.

    Args:
        engine: a ``vllm.LLM``, or the engine client of a server.

    Raises:
        TypeError: it is neither.
        ValueError: its vectors cannot be changed, as other processes have stores of their own.
    """
    engine = getattr(engine, "llm_engine", engine)  # of an LLM
    checks = getattr(getattr(engine, "input_processor", None), "faststeer", None)
    if not isinstance(checks, RequestChecks):
        raise TypeError(
            f"it is a {type(engine).__name__}; expected a vllm.LLM, or the AsyncLLM of a server, "
            "created after faststeer's plugin was loaded (VLLM_PLUGINS must not leave it out)"
        )
    parallel = engine.vllm_config.parallel_config
    for count, what, option in (
        (parallel.data_parallel_size, "data parallel engines", "data_parallel_size"),
        (parallel._api_process_count, "API server processes", "api_server_count"),
    ):
        if count > 1:
            raise ValueError(
                f"vectors cannot be changed while {count} {what} run, each of which would have to "
                f"change at the same time; start with {option} 1, or with all vectors in the folder"
            )
    return checks


def put_in_engine(llm: Any, digest: str, content: bytes, needed: list[str]) -> list[str]:
    """Put a vector into all workers of a ``vllm.LLM``; see `_put_in_all_workers`."""
    client = llm.llm_engine.engine_core
    if isinstance(client, InprocClient):
        return _put_in_all_workers(client.engine_core, digest, content, needed)
    found: list[str] = client.call_utility("faststeer_put", digest, content, needed)
    return found


async def put_in_server(engine: Any, digest: str, content: bytes, needed: list[str]) -> list[str]:
    """Put a vector into all workers of a server's engine; see `_put_in_all_workers`."""
    if not isinstance(engine, AsyncLLM):
        raise TypeError(f"the engine is a {type(engine).__name__}; expected an AsyncLLM")
    client = engine.engine_core
    found: list[str] = await client.call_utility_async("faststeer_put", digest, content, needed)
    return found


def _put_in_all_workers(core: Any, digest: str, content: bytes, needed: list[str]) -> list[str]:
    """Put a vector into all workers, in the engine's process, where no step is being scheduled.

    `needed`: digests that must stay beside those of unfinished requests. Returns for each worker
    why it has no place for the vector, "" where it has.
    """
    used = set(needed)
    for request in core.scheduler.requests.values():
        updates = [own for own in request.streaming_queue or () if own is not None]
        for own in (request, *updates):
            used |= {term[0] for term in terms_of(own.sampling_params) or ()}
    found: list[str] = core.collective_rpc(
        "faststeer_put", None, (digest, content, sorted(used)), None
    )
    return found


def _put_in_worker(worker: Any, digest: str, content: bytes, used: list[str]) -> str:
    steering: EngineSteering = worker.model_runner.faststeer
    try:
        steering.put(digest, SteeringVector.from_bytes(content), used)
    except ValueError as error:
        return str(error)
    return ""


def _ending_leases(stock: Any) -> Any:
    """Return the method that takes a request into the engine, which knows its vectors from then on.

    An engine in the same process would otherwise hold the leased terms until its next step.
    """

    @functools.wraps(stock)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        found = stock(self, request)
        own = found[0]
        terms = terms_of(own.sampling_params)
        if isinstance(terms, LeasedTerms):
            params = copy.copy(own.sampling_params)
            params.extra_args = {**params.extra_args, CHECKED_KEY: list(terms)}
            own.sampling_params = params
        return found

    return preprocess_add_request
