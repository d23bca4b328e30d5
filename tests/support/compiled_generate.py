"""`generate` with a compiled step, and actions during it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from explicit_scopes import written
from torch import Tensor
from transformers import CompileConfig, LogitsProcessor


class At(LogitsProcessor):
    """Logits processor that runs an action at a given number of tokens."""

    def __init__(self, **actions) -> None:
        self.actions = {int(key[1:]): action for key, action in actions.items()}

    def __call__(self, input_ids, scores):
        self.actions.get(input_ids.shape[1], lambda: None)()
        return scores


COMPILED = {
    "cache_implementation": "static",
    "compile_config": CompileConfig(fullgraph=True, backend="eager", mode=None, dynamic=False),
}
COMPILED["compile_config"]._compile_all_devices = True


def require_one_graph(model: Any, batches: Sequence[tuple[Tensor, Tensor, Any]]) -> None:
    """Require that compiled decode steps write what eager ones do, and of one graph for all.

    `batches`: ids ``[B, P]``, mask ``[B, P]`` and what the rows write.
    """
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for ids, mask, rows in batches:
        new = {"max_new_tokens": 19 - ids.shape[1]}  # one size of the static cache
        expected = written(model, ids, mask, rows, **new)
        found = written(model, ids, mask, rows, **new, **COMPILED)
        assert torch.equal(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()
