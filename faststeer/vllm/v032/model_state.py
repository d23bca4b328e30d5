"""Model Runner V2 of vLLM 0.32: its `ModelState` receives the requests and every step."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from faststeer.vllm.batch import Step
from faststeer.vllm.engine_steering import EngineSteering
from faststeer.vllm.v032.request_data import arguments_of
from faststeer.vllm.v032.signatures import require_signatures

# The methods of a state that are extended, and the parameters that they are known to have.
_SIGNATURES = {
    "add_request": "req_index new_req_data",
    "remove_request": "req_id",
    "preprocess_state": "input_batch block_tables kv_cache_config num_computed_tokens",
}


class _SteeredState:
    """What is added to the class of a `ModelState`."""

    def add_request(self: Any, req_index: int, new_req_data: Any) -> None:
        """Take a request that is new, or comes back after preemption."""
        cast(Any, super()).add_request(req_index, new_req_data)
        self.faststeer.add_request(new_req_data.req_id, *arguments_of(new_req_data))

    def remove_request(self: Any, req_id: str) -> None:
        """Forget a request that has finished, or is preempted."""
        cast(Any, super()).remove_request(req_id)
        self.faststeer.remove_request(req_id)

    def preprocess_state(self: Any, input_batch: Any, *args: Any, **kwargs: Any) -> None:
        """Write the entries of a step, of which dummy runs have none."""
        cast(Any, super()).preprocess_state(input_batch, *args, **kwargs)
        scheduled = np.diff(input_batch.query_start_loc_np[: input_batch.num_reqs + 1])
        computed = input_batch.num_computed_tokens_np[: input_batch.num_reqs]
        self.faststeer.write(Step(input_batch.req_ids, scheduled, computed))


def steer_model_state(state: Any, steering: EngineSteering) -> None:
    """Let a `ModelState` write what `steering` steers with.

    Raises:
        RuntimeError: a method has other parameters than those that are known.
    """
    stock = type(state)
    require_signatures((getattr(state, name), own) for name, own in _SIGNATURES.items())
    state.faststeer = steering
    state.__class__ = type(stock.__name__, (_SteeredState, stock), {})
