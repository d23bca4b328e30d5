"""transformers' own common model tests, on a tiny model of each family that faststeer fuses.

Its source distribution carries the tests that all models share, but not the per-model tests that
define the sizes of a tiny configuration; the sizes are defined here.
"""

from __future__ import annotations

import sys
import types
import unittest
from typing import Any

import pytest
import torch
import transformers

# Two further sets of tests are missing from the distribution and are not run here.
for module, name in (
    ("tests.exporters.test_export", "ExportTesterMixin"),
    ("tests.generation.test_utils", "GenerationTesterMixin"),
):
    sys.modules[module] = types.ModuleType(module)
    setattr(sys.modules[module], name, type(name, (), {}))

common = pytest.importorskip("tests.test_modeling_common")

BATCH, TOKENS = 4, 7
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
# By the prefix of a family's classes: the settings of its configuration besides `SIZES`.
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Mistral": {},
    "Qwen2": {},
    "Qwen3": {},
    "SmolLM3": {},
    "Phi3": {},
    "Mixtral": EXPERTS,
    "Qwen3Moe": EXPERTS | {"moe_intermediate_size": 16},
    "Gemma": {},
    "Gemma2": {},
    "Gemma3": {},
}
HEADS = "Model", "TextModel", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification"


class Tester:
    """The `model_tester` of transformers' tests: sizes and inputs."""

    is_training, batch_size, seq_length = True, BATCH, TOKENS
    num_hidden_layers, num_attention_heads = 2, 4
    hidden_size = SIZES["hidden_size"]

    def __init__(self, config: type, facts: dict[str, Any]) -> None:
        self.config, self.facts = config, facts

    def get_config(self) -> Any:
        return self.config(**SIZES | self.facts)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, torch.Tensor]]:
        ids = torch.randint(3, SIZES["vocab_size"], (BATCH, TOKENS))
        mask = torch.ones_like(ids).tril()
        return self.get_config(), {"input_ids": ids, "attention_mask": mask}


def _tests_of(prefix: str, facts: dict[str, Any]) -> type:
    found = [getattr(transformers, prefix + head, None) for head in HEADS]
    causal = getattr(transformers, f"{prefix}ForCausalLM")
    config = causal.config_class
    classes = tuple(c for c in found if c is not None and c.config_class is config)

    def set_up(self: Any) -> None:
        self.model_tester = Tester(config, facts)

    body = {"all_model_classes": classes, "setUp": set_up, "__module__": __name__}
    # Experts without tokens have no gradient.
    body["test_all_params_have_gradient"] = facts is not EXPERTS
    bases = (common.ModelTesterMixin, common.GenerationTesterMixin, unittest.TestCase)
    return type(f"Test{prefix}", bases, body)


for prefix, facts in FAMILIES.items():
    globals()[f"Test{prefix}"] = _tests_of(prefix, facts)
