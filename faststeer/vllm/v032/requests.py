"""Requests of vLLM 0.32, checked in the process that answers them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.input_processor import InputProcessor

from faststeer.vllm.configuration import KEY
from faststeer.vllm.request_checks import RequestChecks
from faststeer.vllm.v032.settings import configuration_of, store_of

SIGNATURES = [
    (
        InputProcessor.process_inputs,
        "self request_id prompt params supported_tasks arrival_time lora_request "
        "tokenization_kwargs trace_headers priority data_parallel_rank resumable session_id "
        "kv_hints",
    ),
]


def check_requests() -> None:
    """Refuse requests that ask for what cannot be done, with the reason."""
    stock_init, stock_process = InputProcessor.__init__, InputProcessor.process_inputs

    @functools.wraps(stock_init)
    def init(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        stock_init(self, vllm_config, *args, **kwargs)
        self.faststeer = RequestChecks(configuration_of(vllm_config), store_of(vllm_config))

    @functools.wraps(stock_process)
    def process_inputs(
        self: Any, request_id: str, prompt: Any, params: Any, *args: Any, **kwargs: Any
    ) -> Any:
        extra_args = getattr(params, "extra_args", None)
        if not extra_args:
            return stock_process(self, request_id, prompt, params, *args, **kwargs)
        checks: RequestChecks = self.faststeer
        try:
            checked = checks.checked(extra_args, bool(kwargs.get("resumable", False)))
            if checked is None:
                return stock_process(self, request_id, prompt, params, *args, **kwargs)
            params = params.clone()
            params.extra_args = checked
            request = stock_process(self, request_id, prompt, params, *args, **kwargs)
            checks.lease(request.params.extra_args)
            tokens = request.prompt_token_ids
            length = len(tokens if tokens is not None else request.prompt_embeds)
            checks.require_room(checked, length)
            if self.vllm_config.speculative_config is not None:
                checks.require_known_positions(checked, length)
        except ValueError as error:
            raise VLLMValidationError(f"faststeer: {error}", parameter=KEY) from None
        return request

    InputProcessor.__init__, InputProcessor.process_inputs = init, process_inputs
    for protocol in (CompletionRequest, ChatCompletionRequest):
        protocol.to_beam_search_params = _refusing_beams(protocol.to_beam_search_params)


def _refusing_beams(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method that drops a request's own arguments, but for those with steering."""

    @functools.wraps(stock)
    def to_beam_search_params(self: Any, *args: Any, **kwargs: Any) -> Any:
        if KEY in (self.vllm_xargs or {}):
            raise VLLMValidationError("faststeer does not steer beam search", parameter=KEY)
        return stock(self, *args, **kwargs)

    return to_beam_search_params
