"""Statistics on vLLM 0.32, by methods of the worker that `collective_rpc` calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from vllm.config import set_current_vllm_config
from vllm.v1.worker.gpu_worker import Worker

from faststeer.vllm.configuration import Configuration
from faststeer.vllm.statistics import State, Statistics


def answer_captures(configuration_of: Callable[[Any], Configuration | None]) -> None:
    """Add the methods. `configuration_of`: returns the configuration of an engine."""

    def facts(self: Any) -> dict[str, Any]:
        """Return what `EngineFacts` holds."""
        vllm_config = self.vllm_config
        configuration, model = configuration_of(vllm_config), vllm_config.model_config
        return {
            "layers": [] if configuration is None else list(configuration.capture),
            "groups": 0 if configuration is None else configuration.capture_groups,
            "longest": model.max_model_len,
            "hidden_size": model.get_hidden_size(),
            "num_layers": model.get_total_num_hidden_layers(),
            "model": model.model,
            "dtype": str(model.dtype).removeprefix("torch."),
            "computes_ahead": _computes_ahead(vllm_config),
        }

    Worker.faststeer_capture_facts = facts
    Worker.faststeer_capture_reset = _reset
    Worker.faststeer_capture_state = _state
    Worker.faststeer_capture_embed = _embed


def require_single_engine(configuration: Configuration, vllm_config: Any) -> None:
    """Raise ValueError where dummy steps of idle ranks would repeat the tokens of the last step."""
    ranks = vllm_config.parallel_config.data_parallel_size
    if configuration.capture and ranks > 1:
        raise ValueError(
            f"faststeer captures statistics of one engine, and data_parallel_size is {ranks}: "
            "start engines of their own, and merge their moments"
        )


def _statistics(worker: Any) -> Statistics:
    statistics: Statistics = worker.model_runner.faststeer.statistics
    return statistics


def _reset(worker: Any) -> None:
    """Start again without tokens."""
    _statistics(worker).reset()


def _state(worker: Any, groups: int, norms: int) -> State:
    """Return the statistics of the layers of this process."""
    return _statistics(worker).state(groups, norms)


def _embed(worker: Any, ids: list[int]) -> list[list[float]] | None:
    """Return the embeddings of tokens, unsteered; None where another process has them."""
    runner = worker.model_runner
    runner.faststeer.batch.clear()
    if runner.faststeer.found.first > 0:
        return None
    with torch.inference_mode(), set_current_vllm_config(worker.vllm_config):
        given = torch.tensor(ids, device=runner.device)
        found: list[list[float]] = runner.get_model().embed_input_ids(given).float().tolist()
    return found


def _computes_ahead(vllm_config: Any) -> str | None:
    """Return what computes tokens that an answer may not come to hold; None for nothing."""
    if vllm_config.speculative_config is not None:
        return "speculative decoding"
    return "async_scheduling" if vllm_config.scheduler_config.async_scheduling else None
