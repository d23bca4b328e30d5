"""What an engine of vLLM 0.32 is configured with."""

from __future__ import annotations

from typing import Any

from faststeer.vllm.configuration import Configuration
from faststeer.vllm.vector_store import VectorStore


def configuration_of(vllm_config: Any) -> Configuration | None:
    """Return the configuration of an engine; None where nothing is configured."""
    additional = vllm_config.additional_config
    return Configuration.of(additional if isinstance(additional, dict) else None)


def store_of(vllm_config: Any) -> VectorStore | None:
    """Return the configured vectors; None where nothing is configured."""
    configuration = configuration_of(vllm_config)
    if configuration is None:
        return None
    model = vllm_config.model_config
    return VectorStore.of(
        configuration, model.get_hidden_size(), model.get_total_num_hidden_layers()
    )
