"""The plugin on vLLM 0.32: the signatures of what it replaces are checked before it does."""

from __future__ import annotations

import functools

from vllm.platforms import current_platform

from faststeer.vllm.v032 import blocks, change_vectors, requests, steps, workers
from faststeer.vllm.v032.captures import answer_captures
from faststeer.vllm.v032.settings import configuration_of
from faststeer.vllm.v032.signatures import require_signatures

# What is replaced, and the parameters that it is known to have.
_SIGNATURES = [
    *requests.SIGNATURES,
    *blocks.SIGNATURES,
    *workers.SIGNATURES,
    *steps.SIGNATURES,
    *change_vectors.SIGNATURES,
]


@functools.cache
def install() -> None:
    """Replace what faststeer needs, once per process.

    Raises:
        RuntimeError: a signature is not the one that is known.
    """
    signatures = list(_SIGNATURES)
    if current_platform.is_cpu():
        from faststeer.vllm.v032 import dummy_runs

        signatures.append(dummy_runs.SIGNATURE)
    require_signatures(signatures)
    requests.check_requests()
    blocks.tell_blocks_apart()
    workers.steer_workers()
    if current_platform.is_cpu():
        dummy_runs.fill_dummy_attention()
    steps.follow_steps()
    change_vectors.change_vectors()
    answer_captures(configuration_of)
