"""The model of vLLM 0.32, in the worker's process: what is steered there, and the proof."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from vllm import envs
from vllm.config import CUDAGraphMode, set_current_vllm_config
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm
from vllm.platforms import current_platform
from vllm.v1.worker.gpu_worker import Worker

from faststeer.vectors.sites import Site
from faststeer.vllm.engine_steering import EngineSteering
from faststeer.vllm.find_sites import decoder_layers, eager, find_sites, watched
from faststeer.vllm.v032.captures import require_single_engine
from faststeer.vllm.v032.model_state import steer_model_state
from faststeer.vllm.v032.settings import configuration_of, store_of

SIGNATURES = [
    (Worker.load_model, "self load_dummy_weights"),
    (Worker.compile_or_warm_up_model, "self"),
    (RMSNorm.forward_native, "self x residual"),
    (GemmaRMSNorm.forward_native, "self x residual"),
]
_GRAPHS = "FASTSTEER_GRAPHS"  # among the variables that make the key of compiled graphs


def steer_workers() -> None:
    """Let the models that workers load be steered, and let each prove it before it serves."""
    stock_load = Worker.load_model

    @functools.wraps(stock_load)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        stock_load(self, *args, **kwargs)
        envs.environment_variables.pop(_GRAPHS, None)  # of an engine before this one
        if configuration_of(self.vllm_config) is not None:
            self.model_runner.faststeer = steering = _steering_of(self)
            state = getattr(self.model_runner, "model_state", None)  # of Model Runner V2
            if state is not None:
                steer_model_state(state, steering)

    Worker.load_model = load_model
    workers = [Worker]
    if current_platform.is_cpu():
        from vllm.v1.worker.cpu_worker import CPUWorker

        workers.append(CPUWorker)
    for worker in workers:
        worker.compile_or_warm_up_model = _proving(worker.compile_or_warm_up_model)


def _proving(stock: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method that makes the model ready to serve, with the proof that it steers."""

    @functools.wraps(stock)
    def compile_or_warm_up_model(self: Any) -> Any:
        result = stock(self)
        runner, parallel = self.model_runner, self.vllm_config.parallel_config
        steering: EngineSteering | None = getattr(runner, "faststeer", None)
        if steering is not None and parallel.pipeline_parallel_size == 1:
            steering.prove_compiled(lambda tokens: runner._dummy_run(tokens, is_profile=True)[0])
        return result

    return compile_or_warm_up_model


def _steering_of(worker: Any) -> EngineSteering:
    runner, vllm_config = worker.model_runner, worker.vllm_config
    _require_supported(worker)
    configuration, store = configuration_of(vllm_config), store_of(vllm_config)
    assert configuration is not None
    assert store is not None
    require_single_engine(configuration, vllm_config)
    if Site(0, "resid_pre") in store.sites:
        _require_own_embedding(vllm_config)
    model = runner.get_model()
    _, layers = decoder_layers(model, store.num_layers)
    embedding = getattr(getattr(model, "model", None), "embed_tokens", None)

    def run(tokens: int) -> Any:
        with set_current_vllm_config(vllm_config), eager(model):
            if hasattr(runner, "model_state"):  # Model Runner V2
                return runner._dummy_run(tokens, skip_attn=True, is_profile=True)
            return runner._dummy_run(
                tokens, cudagraph_runtime_mode=CUDAGraphMode.NONE, is_profile=True
            )

    found = find_sites(
        layers, _is_norm, watched(model), embedding, store.hidden_size, lambda: run(4)
    )
    graphs = vllm_config.compilation_config.cudagraph_capture_sizes or [0]
    most = max(vllm_config.scheduler_config.max_num_batched_tokens, *graphs)
    longest = vllm_config.model_config.max_model_len
    steering = EngineSteering(configuration, store, found, most, runner.device, longest)
    steering.attach(
        weight_offset=lambda norm: 1.0 if type(norm) is GemmaRMSNorm else 0.0,
        in_place=lambda norm: type(norm) is RMSNorm,  # as its own op, which takes what it is given
    )
    steering.prove(run)
    options = configuration.capture, configuration.capture_groups, longest
    key = f"{steering.graph_key} {options}"
    envs.environment_variables[_GRAPHS] = lambda: key
    return steering


def _require_own_embedding(vllm_config: Any) -> None:
    """Raise ValueError where the embedding is called for other tokens than those of the step."""
    if vllm_config.speculative_config is not None:
        raise ValueError("faststeer does not steer the embedding beside drafts, which may share it")
    if vllm_config.model_config.enable_prompt_embeds:
        raise ValueError("faststeer does not steer embeddings that are given by requests")


def _is_norm(module: nn.Module) -> bool:
    if type(module) is RMSNorm:
        return module.variance_size_override is None
    return type(module) is GemmaRMSNorm


def _require_supported(worker: Any) -> None:
    """Raise ValueError for what splits the tokens of a step, which the tables do not follow."""
    if getattr(worker.model_runner, "adaptive_verification", None) is not None:
        raise ValueError("faststeer does not steer adaptive verification of drafts")
    if worker.vllm_config.parallel_config.use_ubatching:
        raise ValueError("faststeer does not steer micro-batches (enable_dbo, ubatch_size)")
