"""Model Runner V1 of vLLM 0.32: what the tokens of every step are steered with."""

from __future__ import annotations

import functools
from typing import Any

from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from faststeer.vllm.batch import Step
from faststeer.vllm.engine_steering import EngineSteering
from faststeer.vllm.v032.request_data import arguments_of

SIGNATURES = [
    (GPUModelRunner._update_states, "self scheduler_output"),
    (GPUModelRunner._prepare_inputs, "self scheduler_output num_scheduled_tokens"),
]


def follow_steps() -> None:
    """Follow the requests, and write the tables once the tokens of a step are decided."""
    stock_update = GPUModelRunner._update_states
    stock_prepare = GPUModelRunner._prepare_inputs

    @functools.wraps(stock_update)
    def update_states(self: Any, scheduler_output: Any) -> Any:
        result = stock_update(self, scheduler_output)
        steering: EngineSteering | None = getattr(self, "faststeer", None)
        if steering is not None:
            # The same id may have finished and come again. Preempted requests stay as they are.
            for request in scheduler_output.finished_req_ids:
                steering.remove_request(request)
            for new in scheduler_output.scheduled_new_reqs:
                steering.add_request(new.req_id, *arguments_of(new))
        return result

    @functools.wraps(stock_prepare)
    def prepare_inputs(self: Any, scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        result = stock_prepare(self, scheduler_output, num_scheduled_tokens)
        steering: EngineSteering | None = getattr(self, "faststeer", None)
        if steering is not None:
            batch = self.input_batch
            computed = batch.num_computed_tokens_cpu[: batch.num_reqs]
            steering.write(Step(batch.req_ids, num_scheduled_tokens, computed))
        return result

    GPUModelRunner._update_states = update_states
    GPUModelRunner._prepare_inputs = prepare_inputs
